Feature: A required sink may stop the agent
  Some agents must not act where nobody keeps the record.
  For them a sink can be required: when it fails, the agent is told at once, by an error where it
  published.

  Rule: A required sink stops the agent, after everyone else has heard

    Scenario: The agent learns that its audit trail has a hole
      Given a bus with a working sink and a broken required sink
      When the agent opens a pull request
      Then the working sink hears of the pull request
      And the agent is stopped by a delivery error

    Scenario: A tool does not run when its start could not be recorded
      Given a bus with a working sink and a broken required sink
      When the agent calls a tool
      Then the tool did not run
      And the agent is stopped by a delivery error
      And the tool call ends once, as "tool.failed"
