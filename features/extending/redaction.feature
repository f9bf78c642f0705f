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

    Scenario: What looks for secrets can be chosen, and finds the same
      When the author runs
        """
        from harken import Bus
        from harken.catalog import ToolStarted
        from harken.redaction import Redactor

        for engine in ("python", "re2"):
            bus = Bus(redaction=Redactor(engine=engine, keys=["badge"], allow=["changeme"]))
            bus.subscribe(lambda envelope: print(envelope.data()["arguments"]))
            for note in ("hello", "--api-key abcdef123456", "AKIAIOSFODNN7EXAMPLE"):
                bus.publish(ToolStarted(tool_name="door", arguments={"note": note}))
            bus.publish(ToolStarted(tool_name="door", arguments={"badge": 1, "token": "changeme"}))
        """
      Then the program prints
        """
        {'note': 'hello'}
        {'note': '--api-key [REDACTED:flag]'}
        {'note': '[REDACTED:aws_access_key]'}
        {'badge': '[REDACTED:key]', 'token': 'changeme'}
        {'note': 'hello'}
        {'note': '--api-key [REDACTED:flag]'}
        {'note': '[REDACTED:aws_access_key]'}
        {'badge': '[REDACTED:key]', 'token': 'changeme'}
        """

  Rule: The operator adds to it without a line of code

    Scenario: A name that only the operator knows is taken out, and one that is harmless stays
      Given HARKEN_REDACTION_NAMES is "badge"
      And HARKEN_REDACTION_ALLOW_NAMES is "resume_secret"
      When the author runs
        """
        import harken
        from harken.catalog import ToolStarted

        bus = harken.configure(audit=False, metrics=False, log=False)
        bus.subscribe(lambda envelope: print(envelope.data()["arguments"]))
        bus.publish(ToolStarted(tool_name="door", arguments={"badge": "b-17", "resume_secret": "page 2"}))
        """
      Then the program prints
        """
        {'badge': '[REDACTED:key]', 'resume_secret': 'page 2'}
        """
