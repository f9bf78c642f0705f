Feature: Event types of your own
  The catalog covers what agents have in common.
  What only your agents do, you declare: a class whose keywords say its name, whether it is audited,
  and how it pairs.
  From then on it is worth as much as any type of the catalog.

  Rule: A type of your own is a first-class type

    Scenario: An author's type gets its outcome, its resource and its place in the audit log
      When the author runs
        """
        import harken
        from harken import Event

        class InvoicePaid(
            Event,
            name="invoice.paid",
            audit=True,
            action="pay",
            resource="invoice:{invoice_id}",
            outcome="success",
        ):
            invoice_id: str
            amount_eur: float

        bus = harken.configure(audit_jsonl_path="audit.jsonl", log=False, metrics=False)
        with harken.scope(actor="agent:billing"):
            bus.publish(InvoicePaid(invoice_id="i-17", amount_eur=99.5))
        bus.close()
        """
      Then the record of "invoice.paid" says
        | actor               | agent:billing |
        | action              | pay           |
        | resource            | invoice:i-17  |
        | outcome             | success       |
        | metadata.amount_eur | 99.5          |

    Scenario: An author's operation pairs, is timed and becomes a span
      When the author runs
        """
        import harken
        from harken import Event

        class DeployStarted(Event, name="deploy.started", key="deploy_id"):
            deploy_id: str = ""
            target: str

        class DeployCompleted(Event, name="deploy.completed", ends=DeployStarted):
            deploy_id: str = ""
            hosts: int = 0

        class DeployFailed(Event, name="deploy.failed", ends=DeployStarted, outcome="failure"):
            deploy_id: str = ""

        bus = harken.configure(traces="file:spans.jsonl", audit=False, log=False, metrics=False)
        with bus.operation(DeployStarted(target="eu-1")) as deploy:
            deploy.complete(hosts=3)
        bus.close()
        """
      Then the span "deploy" says
        | attributes.harken.outcome    | success |
        | attributes.harken.data.hosts | 3       |

    Scenario: The outcome of an event can follow from one of its fields
      When the author runs
        """
        from harken import Bus, Event, outcome_from

        class Judged(
            Event,
            name="answer.judged",
            outcome=outcome_from("verdict", good="success", bad="failure"),
        ):
            verdict: str

        bus = Bus()
        bus.subscribe(lambda envelope: print(envelope.event.verdict, envelope.outcome.value))
        for verdict in ("good", "bad", "ugly"):
            bus.publish(Judged(verdict=verdict))
        """
      Then the program prints
        """
        good success
        bad failure
        ugly unknown
        """

  Rule: A name belongs to one type

    Scenario: A second class with the same name is refused, and both are named
      When the author runs
        """
        from harken import Event
        from harken.errors import EventNameClashError

        class InvoicePaid(Event, name="invoice.paid"):
            invoice_id: str

        try:
            class BillPaid(Event, name="invoice.paid"):
                bill_id: str
        except EventNameClashError as error:
            print(error)
        """
      Then the program prints a sentence with "invoice.paid", "InvoicePaid" and "BillPaid"
