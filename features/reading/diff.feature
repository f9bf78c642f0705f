Feature: Compare two runs
  `harken diff` shows what one run did and the other did not. When, and how long it took, does not
  matter.

  Background:
    Given the audit log of a demo, where HARKEN_AUDIT_JSONL_PATH says

  Rule: The exit code tells a script whether they differ

    Scenario: Two runs that went otherwise
      When the operator asks `harken diff RUN_A RUN_B -o text`
      Then the exit code is 80
      And standard output mentions "+   tool.started  watch_folder  cancelled"

    Scenario: A run is like itself
      When the operator asks `harken diff RUN_A RUN_A`
      Then the exit code is 0
      And the answer's "data.same" is "true"
