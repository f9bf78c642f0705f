Feature: Put agents of Pydantic AI on the record
  Call the agent through `Recorded`, or give that to it as a capability: each run of the agent is on the record, with its model calls and tool calls.

  Rule: Whatever happens in a run, its record is whole

    Scenario Outline: A run that <does> is on the record
      Given an agent of Pydantic AI with an audit log and traces
      When a run of it <does>
      Then each operation has begun and ended once, in the record as in the traces
      And each span is inside of another, but for one of each run
      And the tool calls have ended as <tools>
      And the run has ended as <run>

      Examples:
        | does                     | tools               | run       |
        | calls a tool             | success             | success   |
        | calls two tools at once  | success and success | success   |
        | fails in a tool          | failure             | failure   |
        | waits for a tool in vain | timeout             | success   |
        | is cancelled in a tool   | cancelled           | cancelled |
        | asks another agent       | success and success | success   |
        | goes on beside another   | success and success | success   |

    Scenario: A run that waits for an approval is no failure
      Given an agent of Pydantic AI with an audit log and traces
      When a run of it waits for an approval
      Then each operation has begun and ended once, in the record as in the traces
      And no tool was called
      And the run has ended as deferred

  Rule: What a run has used up is what the framework counted

    Scenario Outline: The tokens of a run that <does> are on the record
      Given an agent of Pydantic AI with an audit log and traces
      When a run of it <does>
      Then the tokens of each are those that the framework counted

      Examples:
        | does                    |
        | calls a tool            |
        | calls two tools at once |
        | waits for an approval   |
        | asks another agent      |
        | goes on beside another  |

    Scenario Outline: A run that <does> was not free
      Given an agent of Pydantic AI with an audit log and traces
      When a run of it <does>
      Then the tokens used up to then are on the record

      Examples:
        | does                   |
        | fails in a tool        |
        | is cancelled in a tool |

  Rule: What belongs together is found together

    Scenario: What another agent does is inside of the tool call that asked it
      Given an agent of Pydantic AI with an audit log and traces
      When a run of it asks another agent
      Then the other agent's work is inside of the tool call that asked it

    Scenario: Two runs at once are not mixed
      Given an agent of Pydantic AI with an audit log and traces
      When a run of it goes on beside another
      Then each of the 2 runs has its own tool call
