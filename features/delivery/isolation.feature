Feature: An observer never breaks the agent
  Sinks write to disks, ports and networks, and all of these fail.
  What a sink raises stays with that sink: the agent goes on, the other sinks hear everything, and
  the failure itself can be seen.

  Rule: Who fails, fails alone

    Scenario: A broken sink harms neither the agent nor the other sinks
      Given a bus with a working sink and a broken sink
      When the agent calls a tool
      Then the agent was not disturbed
      And the working sink hears the tool call

    Scenario: A broken listener harms nobody either
      Given a bus with a working sink
      And a listener that fails
      When the agent calls a tool
      Then the agent was not disturbed
      And the working sink hears the tool call

    Scenario: The other sinks hear that one has failed
      Given a bus with a working sink and a broken sink
      When the agent opens 3 pull requests
      Then the working sink hears one "harken.sink_failed" that says
        | sink       | broken  |
        | error_type | OSError |

    Scenario: A sink may itself publish what it finds out
      Given a bus with a working sink
      And a sink that reports each pull request with an event of its own
      When the agent opens 2 pull requests
      Then the working sink hears "pr.created", "invoice.paid", "pr.created", "invoice.paid"

  Rule: Who fails again and again is left alone for a while

    Scenario: What a sink misses meanwhile is counted
      Given a bus with a working sink and a broken sink
      When the agent opens 8 pull requests
      Then the health of the broken sink says
        | quarantined | true               |
        | failures    | 5                  |
        | drops       | {"failed": 5, "quarantined": 3} |

    Scenario: Who only fails now and then is not left alone
      Given a bus with a working sink
      And a listener that fails at every second pull request
      When the agent opens 20 pull requests
      Then the health of the fickle listener says
        | failures    | 10    |
        | delivered   | 10    |
        | quarantined | false |

    Scenario: A sink that works again is heard again, and what it missed is told
      Given a bus with a working sink and a broken sink
      And the broken sink was left alone after 5 pull requests
      When the broken sink is mended and the agent goes on opening pull requests
      Then the mended sink hears of one
      And the working sink hears a "harken.events_dropped" that says
        | sink   | broken      |
        | reason | quarantined |
