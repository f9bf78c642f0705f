Feature: Every event can be followed back to what caused it
  "Why did the agent do that?" is answered by walking back from event to event.
  Each names the one that made it happen.

  Rule: The cause is known without being said

    Scenario: What happens inside a tool call is caused by the call
      Given a bus with a working sink
      When the agent opens a pull request inside a tool call
      Then "pr.created" names "tool.started" as its cause

    Scenario: What a listener publishes is caused by what it heard
      Given a bus with a working sink
      And a listener that pays an invoice as soon as it hears of a pull request
      When the agent opens a pull request
      Then "invoice.paid" names "pr.created" as its cause

  Rule: A cause is heard before its effects

    Scenario Outline: <A sink> hears of a pull request before it hears what was done about it
      Given a bus with <a sink>
      And a listener that pays an invoice as soon as it hears of a pull request
      When the agent opens a pull request and closes the bus
      Then the working sink hears "pr.created", "invoice.paid"

      Examples:
        | A sink              | a sink                        |
        | A sink              | a working sink                |
        | A sink with a queue | a working sink behind a queue |
