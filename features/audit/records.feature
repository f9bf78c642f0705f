Feature: The audit log says who did what, to what, and how it ended
  Every audited event becomes one line of `audit.jsonl`, in the same order of members, in plain
  ASCII JSON.
  Nothing has to be installed to read it: `tail`, `grep` and `jq` will do.

  Rule: One audited event is one record

    Scenario: A tool call is recorded with actor, action, resource and outcome
      Given an agent with an audit log
      When "agent:billing" calls a tool in run "r-42" of session "s-1"
      Then the audit log holds "tool.started", "tool.completed"
      And the record of "tool.completed" says
        | actor              | agent:billing |
        | action             | call          |
        | resource           | tool:search   |
        | outcome            | success       |
        | run_id             | r-42          |
        | session_id         | s-1           |
        | metadata.tool_name | search        |
      And the record of "tool.completed" has the "id" of "tool.started" as its "started_event_id"

    Scenario: The log says itself when it was opened, checked and closed
      Given an agent with an audit log
      When the agent opens a pull request and closes the bus
      Then the lines of the audit log are "audit.open", "pr.created", "audit.checkpoint", "audit.close"

  Rule: The operator decides what is audited

    Scenario: A type can be raised into the audit log, and another one kept out
      Given the setting HARKEN_AUDIT_TYPES is "llm.completed=on, pr.*=off"
      And an agent with an audit log
      When the agent asks a model and opens a pull request
      Then the audit log holds "llm.completed"

  Rule: Content is kept only where it was asked for, its digest always

    Scenario: Arguments are kept, and of a result the digest and the size
      Given an agent with an audit log
      When the agent searches for "open invoices" and finds "17 of them"
      Then the record of "tool.started" says
        | metadata.arguments.q | open invoices |
      And the record of "tool.completed" says
        | metadata.result_size | 10 |
      And the record of "tool.completed" has no "metadata.result"
      And the record of "tool.completed" has a digest as its "metadata.result_digest"

  Rule: The log belongs to its owner

    Scenario: Where no path is set, the log is in the owner's data folder and theirs alone
      Given an agent "billing" with an audit log at its default path
      When the agent opens a pull request
      Then the audit log is at ".local/share/billing/audit.jsonl" in the owner's home
      And nobody but its owner may read it, or look into its folder

    Scenario: A path that cannot be written is said before the agent begins
      When an agent with an audit log at "/dev/null" is configured
      Then that is refused with "it is not a regular file; choose another path"

  Rule: A record says what was, when it was told

    Scenario: What is changed afterwards stays as it was told
      Given the setting HARKEN_AUDIT_DURABILITY is "async"
      And an agent with an audit log
      When the agent searches for "open invoices" and then changes its arguments
      Then the record of "tool.started" says
        | metadata.arguments.q | open invoices |

    Scenario: What is told late has the time at which it happened
      Given an agent with an audit log
      When the agent tells of a pull request that it opened at "2026-01-02T03:04:05Z"
      Then the record of "pr.created" says
        | occurred | 2026-01-02T03:04:05.000000Z |

    Scenario: Of what is too long the size and the digest are kept
      Given an agent with an audit log
      When the agent searches for a text of 2000000 letters
      Then the record of "tool.started" says that 2000000 bytes were cut
      And the chain of the audit log is whole
