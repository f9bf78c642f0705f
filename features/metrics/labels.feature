Feature: Labels are bounded
  Tool names, models and commands come from outside, and an agent may make up any number of them.
  A metric keeps a bounded number of series, and adds up the rest under `__other__`.

  Rule: A metric never has more series than it may

    Scenario: Tools beyond the bound are counted together
      Given an agent with metrics of at most 5 series each
      When the agent calls 20 different tools
      Then "infra_agent_tool_call_duration_seconds_count" has 6 series
      And the metrics say
        | infra_agent_tool_call_duration_seconds_count{tool="tool-0",status="success"}           | 1  |
        | infra_agent_tool_call_duration_seconds_count{tool="__other__",status="success"}        | 15 |
        | harken_metric_series_overflowed_total{metric="infra_agent_tool_call_duration_seconds"} | 15 |

  Rule: A label has only the words that it may have

    Scenario: An outcome that nobody knows counts as unknown
      Given an agent with metrics in a file
      When the agent says that its tool ended as "melted"
      Then the metrics say
        | infra_agent_tool_calls_total{tool="search",status="unknown"} | 1 |
      And the metrics do not mention "melted"
