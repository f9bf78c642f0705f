Feature: Call a command-line tool that keeps the contract with agents
  Every answer says what was called, how long it took, and how to find it again. The tool may be made
  with click, Typer, argparse or cyclopts; `examples/` has one of each.

  Rule: Whatever is called, the answer carries the caller's trace id

    Scenario Outline: A tool of any library gives the trace id back
      Given the setting TOOL_TRACE_ID is "test-123"
      When the agent calls "deploy staging" of the tool made with <library>
      Then the answer's "meta.trace_id" is "test-123"
      And the answer's "meta.command" is "deploy"
      And the answer's "data.env" is "staging"

      Examples:
        | library  |
        | click    |
        | typer    |
        | argparse |
        | cyclopts |

    Scenario: A command that was not understood says so in its answer
      Given the setting TOOL_TRACE_ID is "test-123"
      When the agent calls "deploy --no-such-option" of the tool made with click
      Then the exit code is 2
      And the answer's "error.code" is "ARG_ERROR"
      And the answer's "error.phase" is "validation"
      And the answer's "meta.trace_id" is "test-123"

    Scenario: harken's own commands keep the contract
      Given the setting TOOL_TRACE_ID is "test-123"
      When the operator runs `harken version --output json`
      Then the answer's "meta.trace_id" is "test-123"
      And the answer's "meta.command" is "version"

  Rule: A value that cannot be is refused, with a warning

    Scenario: A trace id that could steer a terminal
      Given the setting BAGGAGE is "nonsense"
      When the agent calls "rollback staging" of the tool made with argparse
      Then the answer's "warnings.0" is "BAGGAGE was ignored: it must be a list of name=value"
