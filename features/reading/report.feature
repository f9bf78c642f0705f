Feature: Hand over a run
  `harken export html` makes one page, to be handed to somebody who has neither the log nor harken.
  It opens by a double click and needs no network.

  Background:
    Given the audit log of a demo, where HARKEN_AUDIT_JSONL_PATH says

  Rule: The page begins with what vouches for it

    Scenario: The auditor sees that the log is whole
      When the operator asks `harken export html -O report.html`
      Then the exit code is 0
      And the report claims "ok" of "chain"
      And the report claims "ok" of "completeness"

    Scenario: The auditor sees that the log was changed
      Given in it, "keep-the-books" was made "burn-the-books" by somebody
      When the operator asks `harken export html -O report.html`
      Then the report claims "tampered" of "chain"

    Scenario: The auditor sees that not everything is shown
      When the operator asks `harken export html --limit 10 -O report.html`
      Then the report claims "cut" of "shown"

  Rule: A page is about one run, or about whatever is asked for

    Scenario: The page of a run has nothing of the other
      When the operator asks `harken export html --run RUN -O report.html`
      Then the report is about one run

    Scenario: A run that is not there has no page
      When the operator asks `harken export html --run nobody -O report.html`
      Then the exit code is 5
      And there is no file "report.html"

  Rule: What was decided can be found without looking for it

    Scenario: A refusal, and who permitted what
      When the operator asks `harken export html --run RUN -O report.html`
      Then the report tells of the decision "nothing is ever deleted"
      And the report tells of the decision "user:ana"

  Rule: The page asks for nothing from any network

    Scenario: The browser is told so
      When the operator asks `harken export html -O report.html`
      Then the report permits its own style and script, and nothing else
