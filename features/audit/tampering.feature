Feature: Nobody edits the audit log unnoticed
  Each record carries the hash of the one before it, over the very bytes that stand in the file.
  So a record cannot be changed, removed, moved or slipped in without breaking the chain.
  The documentation of the format shows a program of a dozen lines that checks it; these scenarios
  run that program, where harken is not installed.

  Rule: A log that nobody touched is whole

    Scenario: The plain program verifies a log that it knows nothing about
      Given the audit log of an agent that opened 5 pull requests
      When the auditor runs the plain program over it
      Then the log is verified

  Rule: Whatever is changed breaks the chain, at the place of the change

    Scenario Outline: The auditor notices that somebody <tampers>
      Given the audit log of an agent that opened 5 pull requests
      And somebody <tampers>
      When the auditor runs the plain program over it
      Then the program stops at line <line> with "<why>"

      Examples:
        | tampers                                 | line | why                           |
        | changed a letter in the third line      | 3    | altered, or not a sealed line |
        | added a member to the third line        | 3    | altered, or not a sealed line |
        | removed the third line                  | 3    | a line before it is missing   |
        | exchanged the third and the fourth line | 3    | a line before it is missing   |
        | wrote a line before the third line      | 3    | altered, or not a sealed line |
        | copied the second line below itself     | 3    | a line before it is missing   |

  Rule: Whoever keeps the head of the chain notices a shortened log

    Scenario: The auditor notices that the last records are gone
      Given the audit log of an agent that opened 5 pull requests
      And the auditor has noted the head of the log
      And somebody removed the last two lines
      When the auditor runs the plain program over it
      Then the log is verified, but up to another head
