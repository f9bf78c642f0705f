Feature: See a record in full
  `harken show` prints every member of a record, and whether its line is as it was sealed.

  Background:
    Given the audit log of a demo, where HARKEN_AUDIT_JSONL_PATH says

  Rule: A record has two names: its id, and its number in the log

    Scenario: By its id
      When the operator asks `harken show DENIED -o text`
      Then standard output mentions "nothing is ever deleted"
      And standard output mentions "intact"

    Scenario: By its number
      When the operator asks `harken show 1`
      Then the answer's "data.0.record.event_type" is "audit.open"

    Scenario: There is no such record
      When the operator asks `harken show 4000`
      Then the exit code is 5
      And standard error is one sentence that mentions "there is no record 4000"
