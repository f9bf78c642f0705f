Feature: Audit log and traces are switched independently
  One deployment needs the record and has no collector; the next has a collector and keeps its
  record elsewhere.
  `HARKEN_AUDIT` and `HARKEN_TRACES` know nothing of each other, and the ids are the same whatever
  is on.

  Rule: All four combinations work

    Scenario Outline: With audit <audit> and traces <traces> there are <files>
      Given the setting HARKEN_AUDIT is "<audit>"
      And the setting HARKEN_TRACES is "<traces>"
      And an agent that is configured by its settings alone
      When the agent calls a tool
      Then there are <files>

      Examples:
        | audit | traces           | files                           |
        | on    | file:spans.jsonl | "audit.jsonl" and "spans.jsonl" |
        | on    | off              | "audit.jsonl" and no spans      |
        | off   | file:spans.jsonl | no audit log and "spans.jsonl"  |
        | off   | off              | no audit log and no spans       |

  Rule: All outputs call the same thing by the same ids

    Scenario: A tool call has one trace id and one span id in the audit log, the log and the spans
      Given an agent with all four outputs
      When the agent calls a tool
      Then the record, the line and the span of the tool call have the same ids
