Feature: Every event is a line of JSON
  One line for each event, with the same names in every line: when, how severe, what happened, and
  the ids that lead to the audit record, the span and all other lines of the run.

  Rule: A line says what happened, and where it belongs

    Scenario: A tool call is logged with the ids of its run and its trace
      Given an agent with a JSON log
      And a listener to "tool.completed"
      When "agent:billing" calls a tool in run "r-42" of session "s-1"
      Then the line of "tool.completed" says
        | level          | info                        |
        | message        | tool completed: tool:search |
        | outcome        | success                     |
        | run_id         | r-42                        |
        | session_id     | s-1                         |
        | actor          | agent:billing               |
        | data.tool_name | search                      |
      And the line of "tool.completed" has the trace and the span that the listener heard

    Scenario Outline: A tool call that ends as <outcome> is logged as <level>
      Given an agent with a JSON log
      When the agent's tool <does>
      Then the line of "<event>" says
        | level   | <level>   |
        | outcome | <outcome> |

      Examples:
        | does                     | event          | outcome   | level   |
        | returns                  | tool.completed | success   | info    |
        | raises an error          | tool.failed    | failure   | error   |
        | runs out of time         | tool.failed    | timeout   | error   |
        | is cancelled             | tool.failed    | cancelled | warning |
        | is forbidden by a policy | tool.denied    | denied    | warning |

  Rule: A line is a line, whatever the agent says

    Scenario: Text with line breaks and terminal controls cannot forge a line
      Given an agent with a JSON log
      When the agent's tool fails with a message of several lines and terminal controls
      Then every line of the log is one JSON object in ASCII

  Rule: The operator decides how much is logged

    Scenario: Types can be silenced, and others asked for
      Given the setting HARKEN_LOG_LEVELS is "tool.*=off, llm.chunk=debug"
      And an agent with a JSON log
      When the agent calls a tool while a model's answer arrives in 2 pieces
      Then the log holds "llm.chunk", "llm.chunk"
