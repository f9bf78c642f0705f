Feature: Count
  `harken stats` counts events, calls, errors and denials, sums up tokens and costs, and shows how
  long things took; by type, actor, model, tool, run, outcome, resource, session or phase.

  Background:
    Given the audit log of a demo, where HARKEN_AUDIT_JSONL_PATH says

  Rule: Figures are those of what is wanted

    Scenario: How the tools did
      When the operator asks `harken stats --by tool --type tool.* -o csv`
      Then standard output mentions "tool,events,calls,errors,denied,p50_ms,p95_ms"
      And standard output mentions "run_command,8,4,1,1"
