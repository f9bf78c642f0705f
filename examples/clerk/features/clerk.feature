Feature: The clerk stays within what it may do
  Whatever the clerk does is on record, and so is what it was not allowed to do.

  Rule: A forbidden tool is not run

    Scenario: The clerk wants to pay
      When the agent calls the tool "pay"
        | invoice | i-17 |
      Then an audit record says it was denied
        | resource      | tool:pay |
        | metadata.rule | tools    |

    Scenario: The clerk searches
      When the agent calls the tool "search"
        | query | open invoices |
      Then an audit record says it succeeded
      And "policy.evaluated" was published
        | decision | allow |

  Rule: What it must keep to itself is not on record

    Scenario: A password is searched for
      When the agent calls the tool "search"
        | query | password=hunter2hunter2hunter2 |
      Then an audit record says it succeeded
      And no audit record holds hunter2

  Rule: Every run has its end

    Scenario: A whole run
      When the clerk works through its plan
      Then these events were published
        | name             |
        | run.started      |
        | tool.started     |
        | policy.evaluated |
        | tool.completed   |
        | run.completed    |
      And every operation has ended
