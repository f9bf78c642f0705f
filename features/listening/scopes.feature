Feature: Every event knows in whose name it happened
  Who acts, in which run and session, for which caller: that is said once, around the work.
  Everything published inside belongs to it, also from tasks, threads and programs that the work is
  handed to.
  No event repeats it, and no function has to pass it on.

  Rule: What is said once holds for everything inside

    Scenario: Events carry the run, the session and the actor they belong to
      Given a bus with a working sink
      When "agent:billing" calls a tool in run "r-42" of session "s-1"
      Then everything that the working sink hears says
        | actor      | agent:billing |
        | run_id     | r-42          |
        | session_id | s-1           |

  Rule: Work that goes on elsewhere belongs to the same run

    Scenario: Runs that go on side by side are not mixed up
      Given a bus with a working sink
      When the runs "r-1" and "r-2" call 5 tools each, side by side
      Then the working sink hears 5 tool calls in run "r-1" and 5 in run "r-2"

    Scenario: A thread takes over the run it was bound to
      Given a bus with a working sink
      When a thread that is bound to run "r-42" calls a tool
      Then everything that the working sink hears says
        | run_id | r-42 |

    Scenario: A program that the agent starts goes on in its trace
      Given a bus with a working sink
      When the agent starts a program inside a tool call
      Then the program is in the trace of the tool call
