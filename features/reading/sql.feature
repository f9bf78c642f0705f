Feature: Ask the audit log in SQL
  `harken sql QUERY` answers one SELECT with DuckDB, which is installed with harken[sql]. The log
  with all its files is the view `audit`, and nothing else is in reach.

  Background:
    Given the audit log of a demo, where HARKEN_AUDIT_JSONL_PATH says

  Rule: Members of a record are columns

    Scenario: The operator counts denied calls by tool
      When the operator asks `harken sql -o csv "select tool_name, count(*) from audit where event_type = 'tool.denied' group by all"`
      Then there are 2 lines
      And standard output mentions "run_command,1"

    Scenario: An answer for a program
      When the operator asks `harken sql "select count(distinct run_id) as runs from audit"`
      Then the answer's "data.columns.0" is "runs"
      And the answer's "meta.content_trust" is "untrusted"

  Rule: A query changes nothing

    Scenario: The operator cannot write by mistake
      When the operator asks `harken sql "copy audit to 'copy.csv'"`
      Then the exit code is 2
      And standard error is one sentence that mentions "one SELECT"
      And there is no file "copy.csv"
