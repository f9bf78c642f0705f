Feature: Hear what you ask for
  Everything an agent does is an event of a named type, such as `tool.started` or `pr.created`;
  `harken catalog` shows them all.
  Whoever wants to know subscribes to what matters to it: some types, a family of types, everything,
  or whatever passes a test of its own.
  The agent does not know who listens.

  Rule: A listener hears the types that it names, and nothing else

    Scenario: A listener to pull requests is not told about tool calls
      Given a listener to "pr.created"
      When the agent calls a tool and opens a pull request
      Then the listener hears "pr.created"

  Rule: A family of types is heard as a whole

    Scenario: A listener to invoices hears every event that has to do with one
      Given a family of types for invoices, with "invoice.paid" and "invoice.disputed" in it
      And a listener to that family
      When the agent pays an invoice, disputes another one and opens a pull request
      Then the listener hears "invoice.paid", "invoice.disputed"

  Rule: A listener may have a test of its own

    Scenario: A listener hears only what belongs into the audit log
      Given a listener to whatever is audited
      When the agent asks a model and opens a pull request
      Then the listener hears "pr.created"

  Rule: A listener may leave at any time

    Scenario: Who has left is told nothing more
      Given a listener to everything
      And the listener has heard of 1 pull request and left
      When the agent opens a pull request
      Then the listener has heard of 1 pull request

    Scenario: Who was to be heard only as long as somebody needs them is let go
      Given a listener to pull requests that the bus does not keep alive
      When nobody needs the listener any more
      And the agent opens a pull request
      Then the listener has heard nothing

  Rule: What nobody hears costs nothing

    Scenario: The agent can know beforehand that nobody listens
      Given a listener to "pr.created"
      When the agent asks whether anybody listens to "tool.started"
      Then nobody does

  Rule: The pieces of a streamed answer reach only those who asked for them

    Scenario: A sink that hears everything is spared the pieces
      Given a bus with a working sink
      When a model's answer arrives in 3 pieces
      Then the working sink hears nothing
