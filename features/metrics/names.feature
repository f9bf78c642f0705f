Feature: Metrics under OpenTelemetry's names
  Who has dashboards for OpenTelemetry's GenAI conventions can keep them
  (`HARKEN_METRICS_NAMES=semconv`); what has no name there keeps its own.

  Rule: What the conventions name is called so, and counted once

    Scenario: Tool calls are timed under the conventions' name
      Given the setting HARKEN_METRICS_NAMES is "semconv"
      And an agent with metrics in a file
      When the agent calls the tool "search" 3 times, and once in vain
      Then the metrics say
        | gen_ai_execute_tool_duration_seconds_count{gen_ai_tool_name="search",gen_ai_tool_type="function",gen_ai_agent_name="",error_type=""}       | 3 |
        | gen_ai_execute_tool_duration_seconds_count{gen_ai_tool_name="search",gen_ai_tool_type="function",gen_ai_agent_name="",error_type="_OTHER"} | 1 |
        | infra_agent_tool_calls_total{tool="search",status="success"}                                                                               | 3 |
      And the metrics do not mention "infra_agent_tool_call_duration_seconds"
