Feature: Give each request its scope
  `RequestScope` goes around any ASGI application: what an agent does for a request is found by the
  request's own ids, and whoever asked is told them.

  Rule: What belongs to a request says so

    Scenario: A caller's request and trace are on the record
      Given a web application whose agent has an audit log
      When the request "q-7" with the trace "4bf92f3577b34da6a3ce929d0e0e4736" makes the agent call a tool
      Then the record of "tool.completed" says
        | request_id | q-7                              |
        | trace_id   | 4bf92f3577b34da6a3ce929d0e0e4736 |

  Rule: Whoever asked can ask again

    Scenario: The answer names the request and the trace
      Given a web application whose agent has an audit log
      When a request without any ids makes the agent call a tool
      Then the answer names the request and the trace of the record of "tool.completed"
