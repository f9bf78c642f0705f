Feature: See what is happening
  `harken tail` prints the last records of the audit log. With `-f` it goes on with what is
  appended, across rotation, until Ctrl-C.

  Background:
    Given the audit log of a demo, where HARKEN_AUDIT_JSONL_PATH says

  Rule: The last ones are the last of what is wanted

    Scenario: The operator sees the last two denials, however old they are
      When the operator asks `harken tail -n 2 --outcome denied`
      Then there are 2 lines
      And each line is a record with "denied" as its "outcome"

  Rule: What is appended is shown when it is whole

    Scenario: A command that runs meanwhile is seen
      When the operator follows the log while `harken exec -- true` runs
      Then the exit code is 130
      And standard output mentions "command.completed"
