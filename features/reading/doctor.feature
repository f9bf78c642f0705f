Feature: Find out what is wrong
  `harken doctor` looks at the settings, the log, who may read it, its end, the clock, the disk and
  the optional packages. It changes nothing.

  Background:
    Given the audit log of a demo, where HARKEN_AUDIT_JSONL_PATH says

  Rule: The exit code is 1 when something is wrong

    Scenario: Nothing is wrong
      When the operator asks `harken doctor`
      Then the exit code is 0

    Scenario: A setting is malformed, and the log is read all the same
      Given the setting HARKEN_LOG_FORMAT is "xml"
      When the operator asks `harken doctor -o text`
      Then the exit code is 1
      And standard output mentions "HARKEN_LOG_FORMAT"
      And standard output mentions "the last record is of"
