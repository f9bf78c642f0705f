Feature: Verify the audit log
  `harken verify` says whether an audit log is what was written, and all of it.
  It judges four things apart: the chain, the seals, completeness and the end; and it names file and
  line of whatever it finds.
  A chain shows what was changed by whoever could not write it anew. That nobody wrote it anew is
  shown by what was kept elsewhere: the first key of its seals, or a head that somebody noted.

  Rule: A log is verified when something outside vouches for it

    Scenario: The auditor has the first key
      Given the sealed audit log of an agent that opened 5 pull requests
      When the auditor verifies the log with the key
      Then the log is found to be verified

    Scenario: The auditor has the public key of its signatures
      Given the signed audit log of an agent that opened 5 pull requests
      And the auditor keeps the head of the log
      When the auditor verifies the log with the public key
      Then the log is found to be verified

    Scenario: The auditor has noted the head
      Given the audit log of an agent that opened 5 pull requests
      And the auditor keeps the head of the log
      When the auditor verifies the log with the head
      Then the log is found to be verified

    Scenario: The auditor has neither
      Given the audit log of an agent that opened 5 pull requests
      When the auditor verifies the log
      Then the log is found to be incomplete
      And the reason is that "nothing vouches for the log"

    Scenario: The auditor asks for the chain alone
      Given the audit log of an agent that opened 5 pull requests
      When the auditor verifies the chain of the log
      Then the log is found to be verified

  Rule: Whatever was changed is found where it was changed

    Scenario Outline: Somebody <tampers>
      Given the audit log of an agent that opened 5 pull requests
      And somebody <tampers>
      When the auditor verifies the log
      Then the log is found to be tampered
      And line <line> is named as <kind>

      Examples:
        | tampers                                 | line | kind      |
        | changed a letter in the third line      | 3    | altered   |
        | added a member to the third line        | 3    | altered   |
        | removed the third line                  | 3    | missing   |
        | exchanged the third and the fourth line | 4    | order     |
        | wrote a line before the third line      | 3    | foreign   |
        | copied the second line below itself     | 3    | duplicate |

    Scenario: An intruder removes one of several files
      Given the setting HARKEN_AUDIT_MAX_BYTES is "4000"
      And the audit log of an agent that opened 20 pull requests
      And an intruder has removed the second file of the log
      When the auditor verifies the log
      Then the log is found to be tampered
      And the third file is named as the one before which lines are missing

  Rule: Whoever can write the log cannot write another one unnoticed

    Scenario: An intruder writes the whole log anew, with a chain that holds
      Given the sealed audit log of an agent that opened 5 pull requests
      And an intruder has written the whole log anew
      When the auditor verifies the log with the key
      Then the log is found to be tampered

    Scenario: An intruder writes a signed log anew, with a chain that holds
      Given the signed audit log of an agent that opened 5 pull requests
      And an intruder has written the whole log anew
      When the auditor verifies the log with the public key
      Then the log is found to be tampered

    Scenario: Somebody cuts the end off
      Given the audit log of an agent that opened 5 pull requests
      And the auditor keeps the head of the log
      And somebody removed the last two lines
      When the auditor verifies the log with the head
      Then the log is found to be tampered
      And the reason is that "the end was cut off, or this is an older copy"

  Rule: What cannot be judged is no verdict

    Scenario: The auditor has the key of another log
      Given the sealed audit log of an agent that opened 5 pull requests
      And the auditor has mistaken the key
      When the auditor verifies the log with the key
      Then the log is found to be undecided

    Scenario: There is no log
      When the operator runs `harken verify nothing.jsonl`
      Then the exit code is 2
      And standard error is one sentence that mentions "there is no audit log at nothing.jsonl"
