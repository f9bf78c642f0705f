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

  Rule: A secret is found wherever it stands, and what stands around it stays

    Scenario Outline: In the arguments <A secret> is taken out
      Given a listener to "tool.started"
      When the agent calls a tool with the arguments `<given>`
      Then the arguments `<kept>` leave the process

      Examples:
        | A secret                           | given                                                                               | kept                                                                                             |
        | a member of any depth              | {"db": {"host": "db-1", "credentials": {"user": "app", "pin": 7}}}                  | {"db": {"host": "db-1", "credentials": "[REDACTED:key]"}}                                        |
        | the second half of a pair          | {"headers": [["Cookie", "sid-1"], ["Accept", "json"]]}                              | {"headers": [["Cookie", "[REDACTED:key]"], ["Accept", "json"]]}                                  |
        | the value beside a name            | {"env": [{"name": "API_KEY", "value": "a1"}, {"name": "HOME", "value": "/root"}]}   | {"env": [{"name": "API_KEY", "value": "[REDACTED:key]"}, {"name": "HOME", "value": "/root"}]}    |
        | the word behind a flag             | {"argv": ["deploy", "--password", "a1", "--retries", "3"]}                          | {"argv": ["deploy", "--password", "[REDACTED:flag]", "--retries", "3"]}                          |
        | the value of a flag                | {"argv": ["deploy", "--password=a1", "--retries=3"]}                                | {"argv": ["deploy", "--password=[REDACTED:flag]", "--retries=3"]}                                |
        | a variable of the environment      | {"argv": ["env", "API_TOKEN=a 1", "make"]}                                          | {"argv": ["env", "API_TOKEN=[REDACTED:key]", "make"]}                                            |
        | the name of a member               | {"ghp_a1B2a1B2a1B2a1B2a1B2a1B2a1B2a1B2a1B2": 1}                                     | {"[REDACTED:github_token]": 1}                                                                   |
        | what is called so in several words | {"clientSecret": 1, "DB_PASS": 2, "api key": 3, "x-auth-token": 4, "accessKey2": 5} | {"clientSecret": "[REDACTED:key]", "DB_PASS": "[REDACTED:key]", "api key": "[REDACTED:key]", "x-auth-token": "[REDACTED:key]", "accessKey2": "[REDACTED:key]"} |
        | a list of secrets                  | {"access_tokens": ["a1", "b2"], "users": ["a", "b"]}                                | {"access_tokens": "[REDACTED:key]", "users": ["a", "b"]}                                         |

    Scenario Outline: In a text <A secret> is taken out
      Given a listener to "tool.started"
      When the agent calls a tool with the argument "note" set to "<given>"
      Then the argument "note" leaves the process as "<kept>"

      Examples:
        | A secret                     | given                                                                        | kept                                                         |
        | a member of JSON             | {"user": "app", "password": "a1"}                                            | {"user": "app", "password": "[REDACTED:key]"}                |
        | the value beside a name      | {"name": "X-Token", "value": "a1"}                                           | {"name": "X-Token", "value": "[REDACTED:key]"}               |
        | a pair of a list             | [("password", "a1"), ("user", "app")]                                        | [("password", "[REDACTED:assignment]"), ("user", "app")]     |
        | a list under a name          | {'password': ['a1', 'b2'], 'user': 'app'}                                    | {'password': '[REDACTED:assignment]', 'user': 'app'}         |
        | a value that stands in front | [{'value': 'a1b2', 'name': 'X-Token'}]                                       | [{'value': '[REDACTED:assignment]', 'name': 'X-Token'}]      |
        | what is written behind it    | password: correct-horse, retry at 9                                          | password: [REDACTED:assignment], retry at 9                  |
        | a value of several words     | DB_PASSWORD=correct horse battery                                            | DB_PASSWORD=[REDACTED:key]                                   |
        | a value among others         | DB_PASSWORD=abcdef&page=2                                                    | DB_PASSWORD=[REDACTED:assignment]&page=2                     |
        | a key in two words           | the api key: abc123def456ghi789jkl, and more                                 | the api key: [REDACTED:assignment], and more                 |
        | the word behind a flag       | fetch --token abcdef123456 https://a                                         | fetch --token [REDACTED:flag] https://a                      |
        | a header                     | Authorization: Bearer abcd1234efgh5678, retry at 9                           | Authorization: Bearer [REDACTED:auth_header], retry at 9     |
        | a cookie                     | Set-Cookie: sid=abc123; Path=/                                               | Set-Cookie: [REDACTED:cookie]                                |
        | a private key                | a -----BEGIN PRIVATE KEY-----MIIE-----END PRIVATE KEY----- b                 | a [REDACTED:private_key] b                                   |
        | a password of a URL          | https://app:p4ss-w0rd@db/x?page=2                                            | https://app:[REDACTED:url_credentials]@db/x?page=2           |

    Scenario: A secret is taken out of the names of things, of people and of errors
      Given a bus with a working sink
      When the agent "user:AKIAIOSFODNN7EXAMPLE" calls the tool "AKIAIOSFODNN7EXAMPLE", which fails with "no AKIAIOSFODNN7EXAMPLE"
      Then the working sink hears a "tool.failed" that says
        | actor         | user:[REDACTED:aws_access_key] |
        | resource      | tool:[REDACTED:aws_access_key] |
        | error_message | no [REDACTED:aws_access_key]   |

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

    Scenario Outline: <What is no secret> stays readable
      Given a listener to "tool.started"
      When the agent calls a tool with the arguments `<arguments>`
      Then the arguments `<arguments>` leave the process

      Examples:
        | What is no secret                   | arguments                                                                     |
        | A secret's place in a template      | {"password": "$DB_PASSWORD", "token": "<your token>", "secret": "****"}       |
        | The absence of a secret             | {"password": null, "token": "", "secret": [], "passwords": {}, "jwt": false}  |
        | The description of a secret         | {"password": {"type": "string", "minLength": 8}}                              |
        | A folder                            | {"PWD": "/home/app"}                                                          |
        | A place in a list of results        | {"next_page_token": "abc", "input_tokens": 12, "token_type": "word"}          |
        | A key of a table                    | {"primary_key": "id", "sort_key": "name", "PRIMARY_KEY": "id", "key": "name"} |
        | A sentence about secrets            | {"note": "the token was expired, so enter your password: required"}           |
        | A flag in front of a variable       | {"argv": ["login", "--password", "$PASSWORD", "--verbose"]}                   |
        | A flag in front of something longer | {"argv": ["login", "--password", ["from", "a", "file"]]}                      |
        | A list of words                     | {"fields": ["password", "token"], "text": "('password', 'token')"}            |

  Rule: The agent itself keeps what it works with

    Scenario: A listener in the process still sees the secret
      Given a listener to "tool.started"
      When the agent calls a tool with the argument "password" set to "correct-horse-battery"
      Then the listener sees the argument "password" as "correct-horse-battery"
      And what leaves the process says "[REDACTED:key]" instead
