Feature: Sinks and listeners of your own
  A listener is any function that takes one envelope; a sink is any object with `write(batch)`.
  Neither inherits from anything, and both use the same public names as harken's own sinks.

  Rule: A listener is a function

    Scenario: A decorated function hears the events of one type
      When the author runs
        """
        from harken import Bus
        from harken.catalog import PrCreated

        bus = Bus()

        @bus.on(PrCreated)
        def opened(envelope):
            print(envelope.name, envelope.event.url)

        bus.publish(PrCreated(url="https://forge.example/pull/7"))
        """
      Then the program prints
        """
        pr.created https://forge.example/pull/7
        """

  Rule: A sink can be put to what the bus expects of any

    Scenario: A sink that cannot take everything is told what it cannot take
      When the author runs
        """
        from harken.testing.sink_conformance import check_sink

        class Tools:
            def write(self, batch):
                for envelope in batch:
                    envelope.event.tool_name

        try:
            check_sink(Tools)
        except ExceptionGroup as group:
            print(group.exceptions[0].__notes__[0].partition(":")[0])
        """
      Then the program prints
        """
        takes_every_type
        """

    Scenario: A sink that takes everything conforms
      When the author runs
        """
        from harken.testing.sink_conformance import check_sink

        class Names:
            def __init__(self):
                self.names = []

            def write(self, batch):
                self.names += [envelope.name for envelope in batch]

        check_sink(Names)
        print("Names conforms")
        """
      Then the program prints
        """
        Names conforms
        """

  Rule: A sink is an object that writes batches

    Scenario: A sink gets redacted JSON that was made once for all sinks
      When the author runs
        """
        from harken import Bus
        from harken.catalog import ToolStarted

        class Lines:
            def write(self, batch):
                for envelope in batch:
                    print(envelope.name, envelope.data()["arguments"])

        bus = Bus()
        bus.attach(Lines())
        bus.publish(ToolStarted(tool_name="login", arguments={"user": "ada", "password": "1234"}))
        bus.close()
        """
      Then the program's first line is
        """
        tool.started {'user': 'ada', 'password': '[REDACTED:key]'}
        """

    Scenario: A sink may say how it wants to be called, and is told when to flush and to close
      When the author runs
        """
        from harken import Bus
        from harken.catalog import PrCreated

        class Outbox:
            delivery = "isolated"
            name = "outbox"

            def __init__(self):
                self.waiting = []

            def write(self, batch):
                self.waiting += [envelope.event.url for envelope in batch]

            def flush(self, timeout):
                print("sending", self.waiting)
                self.waiting.clear()
                return True

            def close(self, timeout):
                print("closed")

        bus = Bus()
        subscription = bus.attach(Outbox(), PrCreated)
        bus.publish(PrCreated(url="/pull/7"))
        print(subscription.name, bool(bus.flush()))
        bus.close()
        """
      Then the program prints
        """
        sending ['/pull/7']
        outbox True
        sending []
        closed
        """

    Scenario: A sink that wraps a sink filters for it
      When the author runs
        """
        from harken import Bus
        from harken.catalog import PrCreated, ToolStarted

        class Only:
            def __init__(self, sink, wanted):
                self.sink, self.wanted = sink, wanted

            def write(self, batch):
                batch = [envelope for envelope in batch if self.wanted(envelope)]
                if batch:
                    self.sink.write(batch)

        class Names:
            def write(self, batch):
                print(*(envelope.name for envelope in batch))

        bus = Bus()
        bus.attach(Only(Names(), lambda envelope: envelope.audit))
        bus.publish(PrCreated(url="/pull/7"))
        bus.close()
        """
      Then the program prints
        """
        pr.created
        """
