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

    Scenario: Whatever happens in a run belongs to it without a word
      Given a bus with a working sink
      When the agent calls a tool in a turn of a run
      Then everything that the working sink hears is of one run

    Scenario: What the application wants to know of its work is on every event
      Given an agent with an audit log
      When the agent calls a tool for the tenant "acme"
      Then the record of "tool.completed" says
        | attributes.tenant | acme |

    Scenario: What happens inside is one trace
      Given a bus with a working sink
      When the agent opens 2 pull requests in run "r-42", and a third one afterwards
      Then the first 2 are in one trace, and the third one is not

    Scenario: A run inside a run has an id of its own, and knows the one around it
      Given a bus with a working sink
      When a run calls a tool, inside of run "r-42"
      Then the working sink hears a "tool.started" that says
        | parent_run_id | r-42 |
      And the tool call is in another run than "r-42"

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

    Scenario: A request that the agent sends goes on in its trace
      Given a bus with a working sink
      When the agent sends a request inside a tool call
      Then the request is in the trace of the tool call

    Scenario: A program that the agent starts knows for whom it works
      Given BAGGAGE is "team=blue"
      And a bus with a working sink
      When the agent starts a program in run "r-42" of session "s-1"
      Then the program prints
        """
        s-1 r-42 team=blue
        """
