Feature: The audit log may be moved while it is written
  Logs grow, and operators move them.
  The chain goes on over all files, and nothing is ever deleted.

  Rule: The log begins a new file when it is told to

    Scenario: A log that has grown goes on in a new file
      Given the setting HARKEN_AUDIT_MAX_BYTES is "4000"
      And an agent with an audit log
      When the agent opens 20 pull requests
      Then the audit log has several files
      And 20 pull requests are recorded in them
      And the chain over all files is whole

  Rule: Whoever moves the file is followed

    Scenario Outline: A log that was <moved> loses no record
      Given an agent with an audit log that has opened 3 pull requests
      And the operator has <moved> the audit log
      When the agent opens 3 pull requests
      Then 6 pull requests are recorded in "audit.jsonl.1" and "audit.jsonl"
      And the first line of "audit.jsonl" says
        | event_type      | <type>   |
        | metadata.reason | <reason> |

      Examples:
        | moved              | type          | reason  |
        | renamed            | audit.open    | renamed |
        | copied and emptied | audit.recover | shrunk  |

  Rule: Several agents may share one log

    Scenario: Two agents that write to one log form one chain
      Given two agents with the same audit log
      When they open 10 pull requests each, in turn
      Then 2 writers have recorded 20 pull requests in the audit log
      And the chain of the audit log is whole
