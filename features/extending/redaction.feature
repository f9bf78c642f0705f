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

    Scenario: A name that only sounds like a secret can be let through
      When the author runs
        """
        from harken import Bus
        from harken.catalog import ToolStarted
        from harken.redaction import Redactor

        bus = Bus(redaction=Redactor(allow_keys=["seat_token"]))
        bus.subscribe(lambda envelope: print(envelope.data()["arguments"]))
        bus.publish(ToolStarted(tool_name="book", arguments={"seat_token": "14C", "token": "t0p"}))
        """
      Then the program prints
        """
        {'seat_token': '14C', 'token': '[REDACTED:key]'}
        """

    Scenario: A pattern that is malformed is refused when the rule is made
      When the author runs
        """
        from harken.errors import RedactionError
        from harken.redaction import Redactor

        try:
            Redactor(patterns={"badge": "badge-["})
        except RedactionError as error:
            print(error)
        """
      Then the program prints a sentence with "badge"
