Feature: Find records
  `harken query` prints the records that are wanted, oldest first: by time, type, run, trace,
  session, actor, outcome, resource, by what a member is, or by text.

  Background:
    Given the audit log of a demo, where HARKEN_AUDIT_JSONL_PATH says

  Rule: Different filters must all be met, of one that is given twice one is enough

    Scenario: The tool calls that went wrong
      When the operator asks `harken query --since 1h --type tool.* --outcome failure --outcome timeout`
      Then there are 3 lines
      And each line is a record with "tool.failed" as its "event_type"

    Scenario: What gave back more than a thousand characters
      When the operator asks `harken query --type tool.* --where metadata.result_size>1000 --fields event_type`
      Then standard output is "{"event_type":"tool.completed"}"

  Rule: That nothing is found is no failure, unless it is asked for

    Scenario: Nothing matches
      When the operator asks `harken query --type no.such`
      Then the exit code is 0
      And there are 0 lines

    Scenario: A check in CI fails when a guard was violated
      When the operator asks `harken query --type guard.violated --fail-match`
      Then the exit code is 81

  Rule: What cannot be read is told, and the rest is answered

    Scenario: A crash left half a line
      Given half a line at its end
      When the operator asks `harken query --type tool.denied`
      Then the exit code is 3
      And there are 1 lines
      And standard error is one sentence that mentions "the last line is not finished"

    Scenario: There is no log
      When the operator asks `harken query -F none.jsonl`
      Then the exit code is 4
      And standard error is one sentence that mentions "there is no audit log at none.jsonl"
