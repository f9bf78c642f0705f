Feature: Nothing is lost at the end of a process
  Agents end in many ways: they return, they raise, they are told to stop, they are forked children.
  Whichever it is, what was published before is written, and what was still open is ended.

  Rule: A process that ends closes its bus

    Scenario: A program that just ends has written everything
      Given a program that calls a tool and just ends
      When the program runs
      Then the audit log holds "tool.started", "tool.completed"
      And the log holds "tool.started", "harken.audit_opened", "tool.completed", "harken.audit_checkpoint", "harken.audit_checkpoint"
      And the spans are "execute_tool search"

    Scenario: A program that dies of an error has recorded the failure
      Given a program that dies of an error inside a tool call
      When the program runs and fails
      Then the audit log holds "tool.started", "tool.failed"
      And the record of "tool.failed" says
        | outcome             | failure    |
        | metadata.error_type | ValueError |

    Scenario: A program that is told to stop has recorded what it left undone
      Given a program that is stopped by SIGTERM inside a tool call
      When the program runs and fails
      Then the audit log holds "tool.started", "tool.failed"
      And the record of "tool.failed" says
        | outcome | cancelled |

  Rule: A child process loses nothing either

    Scenario Outline: A child that was made by <method> writes to the same audit log and the same log
      Given a program that calls tools in a child made by <method>
      When the program runs
      Then 2 writers have recorded 4 tool calls in the audit log
      And the chain of the audit log is whole
      And the log tells of 4 tool calls that ended

      Examples:
        | method |
        | fork   |
        | spawn  |

  Rule: A closed bus is closed

    Scenario: Who publishes on a closed bus is told so
      Given a bus with a working sink
      And the bus was closed
      When the agent opens a pull request
      Then that is refused with "cannot publish pr.created: the bus is closed"
