Feature: Ask why something happened
  `harken why` goes from an event back to its cause, and on to the cause of that: recorded causes
  only, nothing is inferred. With `--effects` it goes forwards.

  Background:
    Given the audit log of a demo, where HARKEN_AUDIT_JSONL_PATH says

  Rule: Every step says how it is connected with the one before

    Scenario: An approval goes back to what was asked, and to the tool that needed it
      When the operator asks `harken why GRANTED -o text`
      Then the line of "approval.granted" comes before that of "answers  approval.requested"
      And the line of "answers  approval.requested" comes before that of "because  tool.started"
      And standard output mentions "Recorded causes only; nothing inferred."

    Scenario: The policy that refused a call stands beside the call
      When the operator asks `harken why DENIED -o text`
      Then standard output mentions "ends  tool.started"
      And standard output mentions "[policy workspace deny"

  Rule: Where the record ends, it says so

    Scenario: The cause was not audited
      When the operator asks `harken why DENIED -o text`
      Then standard output mentions "is not in this log"
      And standard output mentions "which is no cause"

  Rule: It goes forwards, too

    Scenario: What an approval let happen is told by the tool that asked for it
      When the operator asks `harken why 3 --effects -o json`
      Then the answer's "data.effects.0.record.event_type" is "run.started"
