Feature: Secrets of your own
  harken knows the names and forms of common secrets.
  Yours it learns from you.

  Rule: What the author adds is taken out everywhere

    Scenario: A form of secret that only the author knows is taken out, by name
      When the author runs
        """
        from harken import Bus
        from harken.catalog import ToolStarted
        from harken.redaction import Redactor

        bus = Bus(redaction=Redactor(patterns={"badge": r"badge-[0-9]{6}"}))
        bus.subscribe(lambda envelope: print(envelope.data()["arguments"], dict(envelope.redacted)))
        bus.publish(ToolStarted(tool_name="door", arguments={"note": "open with badge-123456"}))
        """
      Then the program prints
        """
        {'note': 'open with [REDACTED:badge]'} {'badge': 1}
        """
