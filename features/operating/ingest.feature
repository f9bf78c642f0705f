Feature: Put on the record what an agent did elsewhere
  `claude -p "..." --verbose --output-format stream-json | harken ingest` puts what an agent on the
  command line does on the record; recorded transcripts are read from files.

  Rule: Events have the times at which things happened

    Scenario: A transcript goes through the sinks
      Given the transcript of an agent on the command line
      When the operator runs `harken ingest transcript.jsonl`
      Then the exit code is 0
      And the record of "run.completed" says
        | outcome               | success                     |
        | occurred              | 2026-03-01T10:00:11.000000Z |
        | session_id            | 5f1c                        |
        | metadata.input_tokens | 1165                        |

  Rule: What is not known is not invented

    Scenario: A transcript that is cut off says so
      Given the first half of the transcript of an agent on the command line
      When the operator runs `harken ingest transcript.jsonl`
      Then the exit code is 3
      And the record of "run.failed" says
        | outcome                | unknown                           |
        | metadata.error_message | the stream ended without a result |
