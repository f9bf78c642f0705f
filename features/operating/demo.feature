Feature: See it work in one command
  `harken demo` runs a scripted agent on real files, without a server, a network or a key, and
  leaves in one folder what the four sinks wrote.

  Rule: One command shows everything

    Scenario: The demo leaves the four outputs and shows what to try next
      When the operator runs `harken demo --out d`
      Then the exit code is 0
      And the folder "d" holds "audit.jsonl", "events.log", "metrics.prom" and "spans.jsonl"
      And standard output mentions "Try next"
      And the chain of "d/audit.jsonl" is whole

    Scenario: The demo's agent meets everything that can happen to a tool
      When the operator runs `harken demo --out d`
      Then the tool calls in "d" ended as success, failure, denied, timeout and cancelled

    Scenario: A tool call of the demo is found in three outputs by the same ids
      When the operator runs `harken demo --out d`
      Then each tool call in "d" has the same ids in "audit.jsonl", "events.log" and "spans.jsonl"

  Rule: The demo says what is true

    Scenario: The demo points to no file that was not written
      Given the setting OTEL_SDK_DISABLED is "true"
      When the operator runs `harken demo --out d`
      Then standard output mentions "no spans, as OTEL_SDK_DISABLED is true"
      And standard output mentions "d/audit.jsonl d/events.log"
      And there is no file "d/spans.jsonl"

    Scenario: A folder that cannot take the files is told of before anything runs
      When the operator runs `harken demo --out /dev/null/d`
      Then the exit code is 4
      And standard error is one sentence that mentions "choose another --out"
