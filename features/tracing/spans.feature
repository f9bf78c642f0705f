Feature: Operations become spans
  Each operation is one span, recorded when its end is known: nothing stays open, and nothing is
  reported as a success that was not one.
  Names and attributes follow OpenTelemetry's conventions for generative AI.

  Rule: Spans nest as the work does

    Scenario: A tool call is inside its turn, and the turn inside its run
      Given an agent with traces in a file
      When the agent calls a tool in a turn of a run
      Then the spans are "execute_tool search", "harken.turn", "invoke_agent"
      And the span "execute_tool search" is inside "harken.turn"
      And the span "harken.turn" is inside "invoke_agent"

  Rule: A span says how its operation ended

    Scenario Outline: The span of a tool that <does> has the status <status>
      Given an agent with traces in a file
      When the agent's tool <does>
      Then the span "execute_tool search" says
        | status.status_code        | <status>  |
        | attributes.harken.outcome | <outcome> |

      Examples:
        | does                     | status | outcome   |
        | returns                  | UNSET  | success   |
        | raises an error          | ERROR  | failure   |
        | runs out of time         | ERROR  | timeout   |
        | is cancelled             | UNSET  | cancelled |
        | is forbidden by a policy | UNSET  | denied    |

  Rule: Attributes have the conventions' names, and the application's own

    Scenario: A model's call says who answered and what it used up
      Given an agent with traces in a file
      When the agent asks the model "m-1" once, for 100 tokens in, 20 tokens out and 0.25 US dollars each
      Then the span "chat m-1" says
        | kind                                  | CLIENT |
        | attributes.gen_ai.provider.name       | acme   |
        | attributes.gen_ai.request.model       | m-1    |
        | attributes.gen_ai.usage.input_tokens  | 100    |
        | attributes.gen_ai.usage.output_tokens | 20     |
        | attributes.infra_agent.tokens.input   | 100    |

    Scenario: The operator gives the application's attributes a prefix of their own
      Given the setting HARKEN_ATTRIBUTES_PREFIX is "acme"
      And an agent with traces in a file
      When "agent:billing" calls a tool in run "r-42" of session "s-1"
      Then the span "execute_tool search" says
        | attributes.acme.run.id     | r-42    |
        | attributes.acme.session.id | s-1     |
        | attributes.acme.slug       | billing |

    Scenario: A credential shows on the span of the work that needed it
      Given an agent with traces in a file
      When the agent is given a credential for "repo:acme/books:write" inside a tool call
      Then the span "execute_tool search" says
        | attributes.infra_agent.credential.issued | true                  |
        | attributes.infra_agent.credential.scope  | repo:acme/books:write |
