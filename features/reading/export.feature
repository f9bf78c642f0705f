Feature: Take the log elsewhere
  `harken export` prints the log, or a part of it, as lines, as a table, as OpenTelemetry spans, or
  in the vocabularies of OCSF, ECS and CloudEvents.

  Background:
    Given the audit log of a demo, where HARKEN_AUDIT_JSONL_PATH says

  Rule: Filters say what is exported

    Scenario: The denials as a table
      When the operator asks `harken export csv --type tool.denied --fields event_type,actor`
      Then there are 2 lines
      And standard output mentions "tool.denied,agent:bookkeeper"

    Scenario: One run as spans
      When the operator asks `harken export otlp --run RUN`
      Then standard output mentions "resourceSpans"

    Scenario Outline: The denials in the vocabulary of <vocabulary>
      When the operator asks `harken export <form> --type tool.denied`
      Then there are 1 lines
      And standard output mentions "<word>"

      Examples:
        | vocabulary  | form        | word          |
        | OCSF        | ocsf        | class_uid     |
        | ECS         | ecs         | @timestamp    |
        | CloudEvents | cloudevents | specversion   |

    Scenario: Into a file
      When the operator asks `harken export jsonl -O all.jsonl`
      And the operator asks `harken verify all.jsonl --chain-only`
      Then the exit code is 0

  Rule: The log is never written over

    Scenario: The log itself is named by mistake
      When the operator asks `harken export csv -O d/audit.jsonl`
      Then the exit code is 2
      And standard error mentions "is a file of the log; name another one with -O"
