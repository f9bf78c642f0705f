Feature: A flush tells the truth
  Before a process is frozen, forked or handed back, somebody asks: is everything out?
  A flush waits for it as long as it may, and then says for each sink what was delivered, dropped
  and is still pending.
  It never says yes when the answer is no.

  Rule: After a flush that succeeded nothing is pending

    Scenario: A queued sink has heard everything that was published before
      Given a bus with a working sink behind a queue
      When the agent opens 300 pull requests and flushes the bus
      Then the flush succeeds
      And the working sink has heard of 300 pull requests

  Rule: A flush that did not get through says so

    Scenario: A sink that has no time is reported with what it has not heard
      Given a bus with a working sink and a busy sink
      When the agent opens 3 pull requests and flushes the bus for a moment
      Then the flush fails
      And the flush says that 4 events are pending at the busy sink, and none at the working sink

  Rule: A flush never waits for itself

    Scenario: On the loop that its listener needs, a flush says at once what is pending
      Given a coroutine that listens to pull requests
      When the agent opens 2 pull requests on the same loop and flushes the bus
      Then the flush fails
      And the coroutine has heard of 0 pull requests
