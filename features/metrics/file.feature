Feature: Metrics in a file
  Where no server runs, the numbers are written to a file that Prometheus' node-exporter picks up
  (`HARKEN_METRICS_FILE_PATH`).
  It is written every few seconds, at a flush and at the end, each time as a whole.

  Rule: What the agent does is counted and timed

    Scenario: Tool calls are counted and timed, by tool and by outcome
      Given an agent with metrics in a file
      When the agent calls the tool "search" 3 times, and once in vain
      Then the metrics say
        | infra_agent_tool_calls_total{tool="search",status="success"}                 | 3 |
        | infra_agent_tool_calls_total{tool="search",status="failure"}                 | 1 |
        | infra_agent_tool_calls_total{tool="search",status="timeout"}                 | 0 |
        | infra_agent_tool_call_duration_seconds_count{tool="search",status="success"} | 3 |

    Scenario: A model's requests, tokens and cost are added up
      Given an agent with metrics in a file
      When the agent asks the model "m-1" twice, for 100 tokens in, 20 tokens out and 0.25 US dollars each
      Then the metrics say
        | infra_agent_llm_requests_total{model="m-1",provider="acme",operation="chat",status="success"} | 2   |
        | infra_agent_tokens_total{model="m-1",token_type="input",agent_slug=""}                        | 200 |
        | infra_agent_tokens_total{model="m-1",token_type="output",agent_slug=""}                       | 40  |
        | infra_agent_llm_cost_usd_total{model="m-1",agent_slug=""}                                     | 0.5 |

    Scenario: Plans are counted by how they ended
      Given an agent with metrics in a file
      When the agent carries out 2 plans and gives up 1
      Then the metrics say
        | infra_agent_plans_total{status="success"}   | 2 |
        | infra_agent_plans_total{status="cancelled"} | 1 |
        | infra_agent_plans_in_progress               | 0 |

    Scenario: What goes into a model's context is measured
      Given an agent with metrics in a file
      When the agent assembles a context of 12 fragments that uses 0.8 of its budget
      Then the metrics say
        | infra_agent_context_fragments_sum                | 12  |
        | infra_agent_context_budget_utilization_ratio_sum | 0.8 |

  Rule: The numbers can be trusted

    Scenario: A number that is none is refused, and the refusal is counted
      Given an agent with metrics in a file
      When the agent reports a model's cost as NaN
      Then the metrics say
        | harken_metric_observations_rejected_total{metric="infra_agent_llm_cost_usd",reason="nan"} | 1 |

    Scenario: The bus itself is measured
      Given an agent with metrics in a file and a broken sink
      When the agent opens 3 pull requests
      Then the metrics say
        | harken_events_published_total{type="pr.created"}             | 3 |
        | harken_sink_errors_total{sink="broken",error_type="OSError"} | 3 |
        | harken_events_delivered_total{sink="broken"}                 | 0 |
