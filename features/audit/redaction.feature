Feature: Secrets do not leave the process
  Agents handle passwords, tokens and keys, and put them where they do not belong: into arguments,
  error messages, names.
  Before any sink sees an event, what is known as a secret by its name or its form is replaced by
  `[REDACTED:<kind>]`.
  No list of names and forms finds every secret; what it cannot know, it cannot take out.

  Rule: A secret is in none of the outputs

    Scenario Outline: <A secret> is taken out of the audit log, the log, the metrics and the spans
      Given an agent with all four outputs and all content captured
      When the agent calls a tool with the argument "<argument>" set to "<value>"
      Then "<secret>" is in none of the outputs
      And the record of "tool.started" counts a "<kind>" among what was redacted

      Examples:
        | A secret              | argument | value                                              | secret                                   | kind           |
        | A password            | password | correct-horse-battery                              | correct-horse-battery                    | key            |
        | An assignment in text | note     | export API_KEY=abcd1234efgh5678ijkl                | abcd1234efgh5678ijkl                     | assignment     |
        | An AWS access key     | note     | use AKIAIOSFODNN7EXAMPLE for it                    | AKIAIOSFODNN7EXAMPLE                     | aws_access_key |
        | A GitHub token        | note     | ghp_a1B2a1B2a1B2a1B2a1B2a1B2a1B2a1B2a1B2           | ghp_a1B2a1B2a1B2a1B2a1B2a1B2a1B2a1B2a1B2 | github_token   |
        | A JSON web token      | note     | eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTYifQ.c2lnbg | eyJzdWIiOiIxMjM0NTYifQ                   | jwt            |
        | A password in a URL   | url      | postgresql://app:p4ss-w0rd-9@db/x                  | p4ss-w0rd-9                              | url_credentials |
        | A token in JSON       | body     | {'token': 'zxcv-qwer-asdf'}                        | zxcv-qwer-asdf                           | assignment     |
        | The value of a flag   | command  | deploy --api-key q1w2e3r4t5                        | q1w2e3r4t5                               | flag           |

  Rule: A secret can be followed without being known

    Scenario: The same secret leaves the same mark
      Given a file "redaction.key" with a random key
      And HARKEN_REDACTION_HASH_KEY_PATH is "redaction.key"
      And an agent with an audit log
      When the agent calls a tool with the argument "password" set to "correct-horse-battery"
      And the agent calls a tool with the argument "token" set to "correct-horse-battery"
      Then "correct-horse-battery" is in no record, and "password" and "token" show the same mark

    Scenario: A key that is too short is refused
      Given a file "redaction.key" with the key "abc"
      And HARKEN_REDACTION_HASH_KEY_PATH is "redaction.key"
      When an agent with an audit log at "audit.jsonl" is configured
      Then that is refused with "hash_key has 3 bytes"

  Rule: What only sounds like a secret stays

    Scenario: Token counts and other harmless numbers stay readable
      Given an agent with an audit log
      When the agent calls a tool with the argument "max_tokens" set to "4096"
      Then the record of "tool.started" says
        | metadata.arguments.max_tokens | 4096 |

  Rule: The agent itself keeps what it works with

    Scenario: A listener in the process still sees the secret
      Given a listener to "tool.started"
      When the agent calls a tool with the argument "password" set to "correct-horse-battery"
      Then the listener sees the argument "password" as "correct-horse-battery"
      And what leaves the process says "[REDACTED:key]" instead
