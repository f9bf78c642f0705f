Feature: Look up what an agent can tell
  `harken catalog` lists the event types, and `harken schema` describes them for programs.

  Rule: Every type is listed, with what it means

    Scenario: The catalog lists a hundred types, and which of them are audited
      When the operator runs `harken catalog -o json`
      Then the answer lists at least 100 types
      And the answer lists "tool.started" as audited and "llm.started" as not audited

    Scenario: One type is shown with its fields and their units
      When the operator runs `harken catalog llm.completed`
      Then standard output mentions "input_tokens: int = 0  (in tokens)"
      And standard output mentions "cost_usd: float | None = None  (in USD)"

    Scenario: A type that does not exist is answered with those that are near
      When the operator runs `harken catalog tool.startd`
      Then the exit code is 2
      And standard error mentions "did you mean tool.started"

  Rule: Programs get a JSON Schema

    Scenario: What the audit log holds fits the schema of its type
      Given the audit log of an agent that opened 1 pull request
      When the operator runs `harken schema pr.created`
      Then the "metadata" of the record of "pr.created" fits that schema
