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
