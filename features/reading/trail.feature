Feature: See one run
  `harken trail` draws a run: as a waterfall on one axis of time, as a tree, as a timeline of its
  records, or as what was decided. It is plain text, also off a terminal.

  Background:
    Given the audit log of a demo, where HARKEN_AUDIT_JSONL_PATH says

  Rule: Each view answers another question

    Scenario: Where did the time go?
      When the operator asks `harken trail RUN --view waterfall`
      Then the exit code is 0
      And the line of "tool run_command" comes before that of "waiting for people"

    Scenario: What was a part of what?
      When the operator asks `harken trail RUN --view tree`
      Then standard output mentions "command python"

    Scenario: What happened, in order?
      When the operator asks `harken trail RUN --view timeline`
      Then the line of "run.started" comes before that of "run.completed"

    Scenario: What was decided, and by whom?
      When the operator asks `harken trail RUN --view decisions`
      Then standard output mentions "user:ana"
      And standard output mentions "keep-the-books"

  Rule: Without a name it is the last run

    Scenario: What happened just now?
      When the operator asks `harken trail`
      Then the exit code is 0
      And standard output mentions "ms in all"

  Rule: A run that is not there is said so

    Scenario: There is no such run
      When the operator asks `harken trail none`
      Then the exit code is 5
      And standard error is one sentence that mentions "`harken runs` lists them"
