Feature: What was recorded survives what happens to the agent
  An agent is killed, a disk fills up, a machine loses power in the middle of a line.
  A record is in the hands of the operating system before the agent goes on, and whatever could not
  be kept is told, with numbers.

  Rule: A record is safe when the agent goes on

    Scenario: An agent that is killed has left the record of its last step
      Given a program that is killed right after it has called a tool
      When the program runs and is killed
      Then the audit log holds "tool.started"
      And the chain of the audit log is whole

    Scenario: The operator sees that a run was never ended
      Given a program that is killed in the middle of a run
      When the program runs and is killed
      And the operator asks `harken runs -F audit.jsonl -o text`
      Then standard output mentions "unclosed"

  Rule: A line that was cut off is repaired and told

    Scenario: Half a record at the end of the log is removed by the next writer, which says so
      Given the audit log of an agent that opened 3 pull requests
      And the last record was torn by a loss of power
      When another agent with the same audit log opens a pull request
      Then the lines of the audit log end with "audit.recover", "audit.open", "pr.created"
      And the record of "audit.recover" says
        | metadata.reason | torn_tail |
      And the chain of the audit log is whole

  Rule: A full disk does not stop the agent, unless it is told to

    Scenario: Records that do not fit wait beside the log, and are put into it when there is room
      Given a program whose disk is full for a while
      When the program runs
      Then the program was not disturbed
      And the record of "audit.lost" says
        | metadata.count   | 0 |
        | metadata.merged  | 3 |
      And nothing is left beside the log
      And the chain of the audit log is whole

    Scenario: An agent that must not act unrecorded is stopped
      Given the setting HARKEN_AUDIT_ON_FAILURE is "raise"
      And a program whose disk is full for a while
      When the program runs
      Then the program was stopped 3 times, each time by an audit write error
      And the chain of the audit log is whole
