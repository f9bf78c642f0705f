Feature: Whatever is started ends exactly once
  A run, a turn, a tool call, a call of a model, a plan, a command: each is an operation, with one
  event at its start and exactly one at its end.
  The end says how it went, and it is told on every path out: return, error, timeout, cancellation,
  denial, and also when nobody ended it at all.
  So whoever counts, times or draws operations never has to guess.

  Rule: The end says what really happened

    Scenario Outline: A tool that <does> ends its call as <outcome>
      Given a bus with a working sink
      When the agent's tool <does>
      Then the tool call ends once, as "<event>"
      And its outcome is <outcome>

      Examples:
        | does                     | event          | outcome   |
        | returns                  | tool.completed | success   |
        | raises an error          | tool.failed    | failure   |
        | runs out of time         | tool.failed    | timeout   |
        | is cancelled             | tool.failed    | cancelled |
        | is forbidden by a policy | tool.denied    | denied    |
        | hands its work on        | tool.completed | deferred  |

    Scenario: Success that was claimed too early is not recorded
      Given a bus with a working sink
      When the agent's tool claims success and then raises an error
      Then the tool call ends once, as "tool.failed"

    Scenario: An error is named, and with it what was called
      Given a bus with a working sink
      When the agent's tool raises an error
      Then the working sink hears a "tool.failed" that says
        | tool_name     | search          |
        | error_type    | ValueError      |
        | error_message | no such invoice |
        | resource      | tool:search     |

  Rule: What nobody ends is ended for its author

    Scenario: A forgotten tool call is closed with the bus, and said to be orphaned
      Given a bus with a working sink
      And the agent has called a tool and forgotten about it
      When the bus is closed
      Then the working sink hears "tool.started", "tool.failed", "harken.scope_orphaned"
      And the outcome of "tool.failed" is orphaned

    Scenario: What is inside ends before what is around it
      Given a bus with a working sink
      And the agent has begun a run and a tool call in it, and forgotten about both
      When the bus is closed
      Then the ends that the working sink hears are "tool.failed", "run.failed"

  Rule: Start and end find each other, wherever they are told

    Scenario: An end that is told before its start is heard behind it
      Given a bus with a working sink
      When the agent says that the call "c-1" has ended, and then that it has started
      Then the working sink hears "tool.started", "tool.completed"
      And the end belongs to the call "c-1"

    Scenario: An end finds its start among several by its key
      Given a bus with a working sink
      When the agent says that the calls "c-1", "c-2" and "c-3" have started, and that "c-2" has ended
      Then the end belongs to the call "c-2"
      And 2 operations are open

    Scenario: An end whose start was never told is heard without one
      Given a bus with a working sink
      When the agent says that a call has ended of which it told no start, and flushes the bus
      Then the working sink hears "tool.completed"

  Rule: Parallel work is told apart by its key, not by its order

    Scenario: Parallel calls that end in another order keep their own ends
      Given a bus with a working sink
      When the agent calls "search", "read" and "write" at once, and they end the other way round
      Then each end belongs to the call of the same tool

    Scenario: A cancelled run leaves exactly one end for each start
      Given a bus with a working sink
      When a run is cancelled in the middle of 3 parallel tool calls
      Then the working sink hears 4 starts and 4 ends
      And the outcome of every end is cancelled

  Rule: A second end is refused

    Scenario: A call that is ended twice is told once
      Given a bus with a working sink
      When the agent ends the same tool call twice
      Then the tool call ends once, as "tool.completed"
      And the bus has refused 1 end
