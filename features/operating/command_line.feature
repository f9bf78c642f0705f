Feature: A command line that says what is wrong
  Every failure is one sentence on standard error with what to do next, never a traceback, and the
  exit code says of which kind it was.

  Rule: The version and the help are where everybody looks for them

    Scenario Outline: `harken <arguments>` shows the version
      When the operator runs `harken <arguments>`
      Then the exit code is 0
      And standard output is the version of harken and of Python

      Examples:
        | arguments |
        | version   |
        | --version |

  Rule: A bad setting is said in one sentence, before anything is done

    Scenario Outline: A bad <setting> is named, with what is wrong
      Given the setting <setting> is "<value>"
      When the operator runs `harken exec -- touch ran`
      Then the exit code is 125
      And standard error is one sentence that mentions "<setting>"
      And standard error is one sentence that mentions "<why>"
      And there is no file "ran"

      Examples:
        | setting                        | value   | why                       |
        | HARKEN_LOG_FORMAT              | xml     | 'xml'                     |
        | HARKEN_METRICS_PROMETHEUS_PORT | 70000   | use 0 to 65535            |
        | HARKEN_TRACES                  | jaeger  | use off, console          |
        | HARKEN_TRACE_SAMPLE_RATIO      | 2       | not between 0 and 1       |
        | HARKEN_CONFIG                  | no.toml | name a readable TOML file |

    Scenario: A setting whose name is misspelt is a warning with the likely name
      Given the setting HARKEN_AUDIT_JSON_PATH is "audit.jsonl"
      When the operator runs `harken exec -- true`
      Then the exit code is 0
      And standard error mentions "did you mean HARKEN_AUDIT_JSONL_PATH?"

  Rule: What is nearer wins

    Scenario: The environment wins over the file, and the code over both
      Given a file "harken.toml" that sets service_name to "filed" and log_format to "text"
      And the setting HARKEN_CONFIG is "harken.toml"
      And the setting HARKEN_LOG_FORMAT is "json"
      When the settings are loaded with log_level "error"
      Then the settings say
        | service_name | filed |
        | log_format   | json  |
        | log_level    | error |
