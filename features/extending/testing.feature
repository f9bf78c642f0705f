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
        from harken.testing.steps import listen

        def before_scenario(context, scenario):
            listen(context, Bus())
        """
      And the author's file "steps/agent_steps.py"
        """
        import harken.testing.steps
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
        """
      When the author runs these features with Behave
      Then 5 steps have passed
