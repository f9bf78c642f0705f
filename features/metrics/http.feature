Feature: Metrics over HTTP
  A server shows its numbers at `/metrics` (`HARKEN_METRICS_PROMETHEUS_PORT`), to this machine only
  unless it is told otherwise.

  Rule: Prometheus finds the numbers at /metrics

    Scenario: A scrape sees what the agent has done
      Given an agent with metrics over HTTP
      And the agent has called the tool "search" 3 times
      When Prometheus scrapes "/metrics"
      Then the metrics say
        | infra_agent_tool_calls_total{tool="search",status="success"} | 3 |

  Rule: A number leads to its trace

    Scenario: An exemplar names the trace and the span of a tool call
      Given an agent with metrics over HTTP
      And a listener to "tool.completed"
      And the agent has called the tool "search" 1 time
      When Prometheus scrapes "/metrics" as OpenMetrics
      Then an exemplar of "infra_agent_tool_call_duration_seconds_bucket" has the ids of "tool.completed"

  Rule: Agents in one process do not share their numbers

    Scenario: Each agent counts for itself
      Given an agent with metrics over HTTP
      And another agent in the same process, with metrics over HTTP of its own
      And the agent has called the tool "search" 3 times
      When Prometheus scrapes the other agent
      Then the metrics do not mention "search"

  Rule: A port that is taken is said, not ignored

    Scenario: The operator is told that the port is in use, and what to do
      Given a port that another program serves
      When an agent with metrics over HTTP on that port is configured
      Then that is refused with "choose another port, or 0 for any that is free"

  Rule: Metrics that leave the machine can be kept from others

    Scenario: A scraper with a certificate sees the numbers over HTTPS
      Given an agent with metrics over HTTPS for clients with a certificate
      And the agent has called the tool "search" 3 times
      When Prometheus scrapes over HTTPS with its certificate
      Then the metrics say
        | infra_agent_tool_calls_total{tool="search",status="success"} | 3 |

    Scenario Outline: Whoever comes <how> sees nothing
      Given an agent with metrics over HTTPS for clients with a certificate
      When Prometheus scrapes <how>
      Then the scrape is refused

      Examples:
        | how                              |
        | over HTTPS without a certificate |
        | without HTTPS                    |
