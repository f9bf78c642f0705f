Feature: See what runs there were
  `harken runs` prints a line for each run: when, how long, how it ended, what it used up.

  Background:
    Given the audit log of a demo, where HARKEN_AUDIT_JSONL_PATH says

  Rule: One line says how a run went

    Scenario: All runs
      When the operator asks `harken runs -o text`
      Then there are 3 lines
      And the line of "success" comes before that of "cancelled"

    Scenario: Only those that did not succeed
      When the operator asks `harken runs --failed -o jsonl`
      Then there are 1 lines
      And each line is a record with "cancelled" as its "outcome"
