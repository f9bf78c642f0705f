Feature: A line that is repeated
  What goes wrong in a loop says so in every turn, and buries every other line.
  An operator can have what says the same logged only so often in a minute
  (`HARKEN_LOG_MAX_REPEATS`); nothing is left out without a word.

  Rule: What is not logged is counted and said

    Scenario: A tool that fails in a loop is logged a few times, and then summed up
      Given the setting HARKEN_LOG_MAX_REPEATS is "2"
      And an agent with a log
      When the agent's tool raises an error 50 times, and the agent ends
      Then the log mentions "tool failed: tool:search" 3 times
      And the log mentions "48 more like this within a minute: tool failed: tool:search"

    Scenario: Another tool's failure is not buried
      Given the setting HARKEN_LOG_MAX_REPEATS is "2"
      And an agent with a log
      When the agent calls 20 different tools
      Then the log tells of 20 tool calls that ended

  Rule: Nothing else is left out

    Scenario: The audit log has a record of each of them
      Given the setting HARKEN_LOG_MAX_REPEATS is "2"
      And an agent with all four outputs
      When the agent's tool raises an error 50 times, and the agent ends
      Then the audit log has 50 records of "tool.failed", said or not

    Scenario: Unless it is asked for, every line is logged
      Given an agent with a log
      When the agent's tool raises an error 50 times, and the agent ends
      Then the log mentions "tool failed: tool:search" 50 times
