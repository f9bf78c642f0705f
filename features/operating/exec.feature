Feature: Put any command on the record
  `harken exec -- CMD` runs a command as it would run by itself, and writes one audit record: who
  ran what, when, and how it ended.

  Rule: The command does not notice

    Scenario: Input, output and exit code are the command's own
      When the operator runs `harken exec -- sh -c "cat; echo careful >&2; exit 3"` with the input "hello"
      Then the exit code is 3
      And standard output is "hello"
      And standard error is "careful"

  Rule: One record, however the command ends

    Scenario: A command that fails is on the record
      When the operator runs `harken exec --actor user:ada -- sh -c "exit 3"`
      Then the record of "command.completed" says
        | actor              | user:ada   |
        | action             | execute    |
        | resource           | command:sh |
        | outcome            | failure    |
        | metadata.exit_code | 3          |
        | metadata.operator  | user:ada   |

    Scenario: A command that is killed is on the record
      When the operator runs `harken exec -- sh -c "kill -TERM $$"`
      Then the exit code is 143
      And the record of "command.completed" says
        | outcome | cancelled |

    Scenario: A signal that harken gets is for the command, and on the record
      When the operator runs `harken exec -- sh -c "kill -ALRM $PPID; exec sleep 60"`
      Then the exit code is 142
      And the record of "command.completed" says
        | outcome            | failure |
        | metadata.exit_code | 142     |

    Scenario: A command that does not exist is on the record
      When the operator runs `harken exec -- ""`
      Then the exit code is 127
      And standard error is one sentence that mentions "command not found"
      And the record of "command.completed" says
        | outcome            | failure |
        | metadata.exit_code | 127     |

    Scenario: A secret among the arguments is not on the record
      When the operator runs `harken exec -- true --password correct-horse-battery`
      Then the audit log does not mention "correct-horse-battery"

  Rule: What cannot be recorded is not run

    Scenario: A command is not run when the record cannot be kept
      Given the setting HARKEN_AUDIT_JSONL_PATH is "/dev/null"
      When the operator runs `harken exec -- touch ran`
      Then the exit code is 125
      And standard error is one sentence that mentions "touch was not run"
      And there is no file "ran"
