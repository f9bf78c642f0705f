Feature: See which commands were called
  `harken audit-log` prints the calls of command-line tools that are on record: a line of JSON for
  each.

  Background:
    Given the audit log of a demo, where HARKEN_AUDIT_JSONL_PATH says

  Rule: A caller finds its own calls again

    Scenario: By the trace id that the caller gave
      Given the setting TOOL_TRACE_ID is "test-123"
      When the operator asks `harken exec -- true`
      And the operator asks `harken audit-log --since 1h --trace-id test-123 --output jsonl`
      Then there are 1 lines
      And each line is a record with "true" as its "command"

    Scenario: Every answer carries the trace id
      Given the setting TOOL_TRACE_ID is "test-123"
      When the operator asks `harken runs -o json`
      Then the answer's "meta.trace_id" is "test-123"
