Feature: Tests of your own
  `harken.testing` is part of the product: what an agent publishes can be captured and written down,
  with a clock that stands still.

  Rule: What was published can be compared with what was expected

    Scenario: A test captures what an agent publishes
      When the author runs
        """
        from harken import Bus
        from harken.catalog import PrCreated, ToolStarted
        from harken.testing import capture

        bus = Bus()
        with capture(bus) as heard:
            with bus.operation(ToolStarted(tool_name="search")):
                bus.publish(PrCreated(url="/pull/7"))
        bus.publish(PrCreated(url="/pull/8"))
        assert heard.names == ["tool.started", "pr.created", "tool.completed"]
        print(heard.of(PrCreated))
        """
      Then the program prints a sentence with "/pull/7" and "PrCreated"

    Scenario: A test says what it expected, and hears what was there instead
      When the author runs
        """
        from harken import Bus
        from harken.catalog import ToolDenied, ToolStarted
        from harken.testing import assert_published, capture

        bus = Bus()
        with capture(bus) as heard, bus.operation(ToolStarted(tool_name="search")):
            pass
        try:
            assert_published(heard, ToolDenied)
        except AssertionError as error:
            print(error)
        """
      Then the program prints
        """
        ToolDenied was not published, but ['tool.started', 'tool.completed']
        """

    Scenario: A run is told as text, the same each time
      When the author runs
        """
        from harken import Bus
        from harken.catalog import PrCreated, ToolStarted
        from harken.testing import capture, snapshot

        def run():
            bus = Bus()
            with capture(bus) as heard, bus.operation(ToolStarted(tool_name="search")):
                bus.publish(PrCreated(url="/pull/7"))
            return snapshot(heard)

        assert run() == run()
        print(*[line.partition(" {")[0] for line in run().splitlines()], sep="\n")
        """
      Then the program prints
        """
        tool.started
          pr.created success
        tool.completed success
        """

    Scenario: A test under pytest asks for a bus that is closed afterwards
      Given the author's test
        """
        from harken.catalog import PrCreated

        def test_agent(harken_bus, captured):
            harken_bus.publish(PrCreated(url="/pull/7"))

            assert captured.names == ["pr.created"]
        """
      When the author runs the test with pytest
      Then 1 test has passed

    Scenario: Features of the author's own speak of what was published
      Given the author's file "environment.py"
        """
        from harken import Bus
        from harken.catalog import ToolStarted
        from harken.testing.behave import listen

        def before_scenario(context, scenario):
            bus = Bus()

            def call_tool(name, arguments):
                with bus.operation(ToolStarted(tool_name=name, arguments=arguments)) as call:
                    if name == "pay":
                        call.deny("the books are closed")

            listen(context, bus, call_tool)
        """
      And the author's file "steps/agent_steps.py"
        """
        import harken.testing.behave
        from behave import when
        from harken.catalog import ToolStarted

        @when("the agent searches for {words}")
        def searches(context, words):
            arguments = {"q": words}
            with context.bus.operation(ToolStarted(tool_name="search", arguments=arguments)) as op:
                op.complete(result_size=3)
        """
      And the author's file "agent.feature"
        """
        Feature: The agent
          Scenario: It finds what it is asked for
            When the agent searches for disk full
            Then these events were published
              | name           |
              | tool.started   |
              | tool.completed |
            And "tool.completed" was published
              | tool_name   | search  |
              | result_size | 3       |
              | outcome     | success |
            And "tool.failed" was not published
            And every operation has ended

          Scenario: It does not do what it may not
            When the agent calls the tool "pay"
              | invoice | i-17 |
            Then an audit record says it was denied
              | resource | tool:pay |
        """
      When the author runs these features with Behave
      Then 7 steps have passed
