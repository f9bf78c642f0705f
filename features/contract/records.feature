Feature: Find every call of a tool again
  A tool under the contract puts each call on record, however it ends, and tells its calls itself.

  Rule: Each call leaves one line, with the exit code that it had

    Scenario Outline: The end of a call is on record
      When the agent calls "<call>" of the tool made with typer
      Then the exit code is <code>
      And the tool tells 1 call, with exit code <code>

      Examples:
        | call                    | code |
        | deploy staging          | 0    |
        | deploy nowhere          | 5    |
        | deploy unreachable      | 1    |
        | deploy --no-such-option | 2    |

    Scenario: SIGTERM in the middle of a call is on record
      When the tool made with cyclopts is stopped in the middle of a call
      Then the exit code is 143
      And the tool tells 1 call, with exit code 143

    Scenario: A secret among the arguments is not
      When the agent calls "deploy staging --api-token hunter2hunter2" of the tool made with argparse
      Then the tool tells nothing of "hunter2"

  Rule: A session can be reconstructed from the log alone

    Scenario: Three calls of one session, in order
      Given the setting BAGGAGE is "harken.session_id=session-7"
      When the agent calls "deploy staging" of the tool made with click
      And the agent calls "verify staging" of the tool made with click
      And the agent calls "rollback staging" of the tool made with click
      Then the tool tells the calls "deploy, verify, rollback"
      And harken shows "deploy, verify, rollback" in the trail of "session-7"
