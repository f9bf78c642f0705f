Feature: A slow sink does not slow the agent down
  A sink that talks to a network or a disk works behind a queue, on another thread.
  Every queue has an end, and every sink says what happens there: the oldest or the newest events
  are dropped, the agent waits, or the agent is told.
  Nothing is dropped in silence.

  Rule: The agent does not wait for a queued sink

    Scenario: The agent goes on while a sink is busy
      Given a bus with a working sink and a busy sink
      When the agent opens 3 pull requests
      Then the agent was not disturbed
      And the busy sink has heard of them once it has time

  Rule: What happens at the end of a queue is chosen by whoever attaches the sink

    Scenario Outline: A full queue that <does> keeps pull requests <kept>
      Given a bus with a working sink and a busy sink with room for 3 events that <does>
      When the agent opens 10 pull requests
      Then the busy sink hears of pull requests <kept> once it has time

      Examples:
        | does                  | kept    |
        | drops the oldest ones | 8 to 10 |
        | drops the newest ones | 1 to 3  |

    Scenario: A full queue that makes the agent wait loses nothing
      Given a bus with a working sink and a busy sink with room for 3 events that makes the agent wait
      When the agent opens 10 pull requests while the busy sink gets time
      Then the busy sink hears of pull requests 1 to 10 once it has time

    Scenario: A full queue that tells the agent keeps what it has
      Given a bus with a working sink and a busy sink with room for 3 events that tells the agent
      When the agent opens 10 pull requests
      Then the agent is stopped by a delivery error
      And the working sink has heard of 4 pull requests
      And the busy sink hears of pull requests 1 to 3 once it has time

    Scenario: A queue is also full of few events that are large
      Given a bus with a working sink and a busy sink with room for 35000 bytes that drops the oldest ones
      When the agent opens 10 pull requests with 10000 letters each
      Then the busy sink hears of pull requests 8 to 10 once it has time

  Rule: What is dropped is counted exactly, and told in band

    Scenario: The other sinks hear how many events were dropped, and which
      Given a bus with a working sink and a busy sink with room for 3 events that drops the newest ones
      When the agent opens 10 pull requests before the busy sink gets time
      Then the working sink hears one "harken.events_dropped" that says
        | sink   | busy       |
        | reason | queue_full |
        | count  | 7          |
      And its first and last number are those of pull requests 4 and 10
