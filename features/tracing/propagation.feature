Feature: One trace through everything
  A request comes in with a trace, runs through phases, tools and programs, and goes out again.
  All of it is one trace, whoever traces the rest.

  Rule: An inbound trace is gone on with

    Scenario: Two phases of one request share its trace
      Given an agent with an audit log and traces in a file
      When a request with the trace "4bf92f3577b34da6a3ce929d0e0e4736" runs the phases "analysis" and "execution"
      Then every record and every span has the trace "4bf92f3577b34da6a3ce929d0e0e4736"
      And the records have the phases "analysis" and "execution"
      And the span "invoke_agent" says
        | parent_id | 00f067aa0ba902b7 |

  Rule: A process goes on with the trace of whoever started it

    Scenario: A program that was started with TRACEPARENT is part of that trace
      Given TRACEPARENT is "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
      And a program that calls a tool and just ends
      When the program runs
      Then the record of "tool.completed" says
        | trace_id       | 4bf92f3577b34da6a3ce929d0e0e4736 |
        | parent_span_id | 00f067aa0ba902b7                 |

    Scenario: A caller's own id is kept word for word
      Given TOOL_TRACE_ID is "test-123"
      And a program that calls a tool and just ends
      When the program runs
      Then the record of "tool.completed" says
        | correlation_id | test-123 |

  Rule: The application's own OpenTelemetry spans are joined

    Scenario: What the agent does inside the application's span is part of its trace
      Given an agent with traces in a file
      When the agent calls a tool inside a span of the application
      Then the span "execute_tool search" is a child of the application's span

    Scenario: What the application traces inside a tool is part of the tool's span, if asked for
      Given the setting HARKEN_TRACE_CURRENT_SPAN is "true"
      And an agent with traces in a file
      When the application makes a span of its own inside a tool call
      Then the application's span is a child of "execute_tool search"
