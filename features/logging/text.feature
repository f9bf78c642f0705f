Feature: Logs for people
  On a developer's screen the same lines are text: time, level, what happened, then the fields.

  Rule: The same fields, for eyes instead of machines

    Scenario: A tool call is one readable line
      Given the setting HARKEN_LOG_FORMAT is "text"
      And an agent with a log
      When "agent:billing" calls a tool in run "r-42" of session "s-1"
      Then the log mentions "tool completed: tool:search"
      And the log mentions "run_id=r-42"

    Scenario: A text cannot steer the operator's terminal
      Given the setting HARKEN_LOG_FORMAT is "text"
      And an agent with a log
      When the agent's tool fails with a message of several lines and terminal controls
      Then the log has no control characters
      And the log mentions "\x1b"
