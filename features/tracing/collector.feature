Feature: Spans go to a collector
  With `HARKEN_TRACES=otlp` spans are sent over OTLP to the collector that the usual `OTEL_*`
  variables name.

  Rule: What is flushed has arrived

    Scenario: A collector has the span of a tool call
      Given a collector of traces
      And an agent whose spans go to that collector
      When the agent calls a tool
      Then the collector has the span "execute_tool search"

  Rule: The agent does not wait for its collector

    Scenario: The agent goes on while a collector does not answer
      Given a collector of traces that does not answer
      And an agent whose spans go to that collector
      When the agent calls 600 different tools
      Then the agent has gone on before the collector answered
