Feature: Labels are bounded
  Tool names, models and commands come from outside, and an agent may make up any number of them.
  A metric keeps a bounded number of series, and adds up the rest under `__other__`.

  Rule: A metric never has more series than it may

    Scenario: Tools beyond the bound are counted together
      Given an agent with metrics of at most 5 series each
      When the agent calls 20 different tools
      Then "infra_agent_tool_calls_total" has at most 6 series
      And "infra_agent_tool_calls_total" adds up to 20
      And "harken_metric_series_overflowed_total" is above 0

  Rule: A label has only the words that it may have

    Scenario: An outcome that nobody knows counts as unknown
      Given an agent with metrics in a file
      When the agent says that its tool ended as "melted"
      Then the metrics say
        | infra_agent_tool_calls_total{tool="search",status="unknown"} | 1 |
      And the metrics do not mention "melted"
