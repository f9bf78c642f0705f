Feature: Bring the audit logs of many hosts together
  `harken forward` sends the audit log of a host to a stream of an engine that is there already.
  The log is the spool: the agent writes its file, and does not know of the engine.
  At the far end the logs can be read and verified as if they were there.

  Background:
    Given an engine that keeps streams

  Rule: The agent does not notice that the engine is away

    Scenario: The engine is killed, and comes back
      Given an agent whose log is being forwarded
      When the engine is killed, the agent calls 30 tools, and the engine comes back
      Then what arrives is the log, line for line

  Rule: Nothing is sent twice

    Scenario: The forwarder has lost what it had noted
      Given the log of the host "host-1" has arrived
      When its cursor is lost, and it is forwarded again
      Then what arrives is the log, line for line

  Rule: The far end can prove that all of it arrived

    Scenario: All hosts are there
      Given the log of the host "host-1" has arrived
      And the log of the host "host-2" has arrived
      When the operator verifies what arrived, and expects "host-1" and "host-2"
      Then the exit code is 0
      And standard output mentions "ok          /feature/host-1"
      And standard output mentions "ok          /feature/host-2"

    Scenario: The log of a host did not come
      Given the log of the host "host-1" has arrived
      When the operator verifies what arrived, and expects "host-1" and "host-2"
      Then the exit code is 3
      And standard output mentions "missing     /feature/host-2"

  Rule: The far end hears the events as if they had happened there

    Scenario: A handler on another machine
      Given the log of the host "host-1" has arrived
      When a bus on another machine publishes again what arrived
      Then its handlers hear each event once, with the id that it has in the log
