Feature: One call sets everything up
  `harken.configure()` attaches the audit log, metrics, logs and traces, as the settings say.
  So an operator changes what an agent leaves behind without a line of code.

  Rule: Each output is switched by itself

    Scenario Outline: With <setting> set to off, <file> is not written, and the others are
      Given the setting <setting> is "off"
      And an agent with its outputs in files
      When the agent calls a tool
      Then all outputs are written but "<file>"

      Examples:
        | setting        | file         |
        | HARKEN_AUDIT   | audit.jsonl  |
        | HARKEN_METRICS | metrics.prom |
        | HARKEN_LOG     | events.log   |
        | HARKEN_TRACES  | spans.jsonl  |

  Rule: The last set-up of a bus is the one that holds

    Scenario: An agent that is set up again writes each record once
      Given an agent with an audit log
      And the agent was set up once more
      When the agent opens a pull request
      Then the audit log holds "pr.created"
