"""
Event types: what the class keywords say, and how types are found.
"""

from __future__ import annotations

import subprocess
import textwrap
from collections.abc import Callable
from typing import Annotated

import jsonschema
import pytest

import harken
from harken import JSON, Event, EventType, Outcome, content, outcome_from, unit
from harken.errors import (
    EventDataError,
    EventError,
    EventNameClashError,
    HarkenError,
    UnknownEventError,
)


class Paid(Event, name="eventtest.paid", audit=True, action="pay", resource="invoice:{invoice_id}"):
    """
    An invoice was paid.
    """

    invoice_id: str
    amount_eur: Annotated[float, unit("EUR")] = 0.0
    note: Annotated[JSON, content("text")] = None
    tags: tuple[str, ...] = ()


class Base(Event, audit=True, action="look", resource="thing:{thing}", outcome="success"):
    """
    A family of events.
    """

    thing: str = ""


class Seen(Base, name="eventtest.seen"):
    """
    A member of the family.
    """


class Named(Event, name="eventtest.named"):
    """
    Its author's fields are called as ours are.
    """

    name: str
    action: str = "mine"
    time: str = ""


def test_describe() -> None:
    """
    What the keywords say is in the registry, not on the event.
    """
    info = harken.describe(Paid(invoice_id="i-1"))

    assert (
        EventType(
            cls=Paid,
            name="eventtest.paid",
            audit=True,
            action="pay",
            resource="invoice:{invoice_id}",
            key=(),
            ends=None,
            outcome=None,
            schema_version=1,
            transient=False,
            fields=("invoice_id", "amount_eur", "note", "tags"),
        )
        == info
    )
    assert {"note": "text"} == dict(info.content)


def test_frozen() -> None:
    """
    An event does not change.
    """
    event = Paid(invoice_id="i-1")

    with pytest.raises(AttributeError):
        event.invoice_id = "i-2"  # type: ignore[misc]


def test_fields_of_any_name() -> None:
    """
    An author may call a field `name` or `action`.
    """
    event = Named(name="Ada")

    assert ("Ada", "mine", "eventtest.named") == (
        event.name,
        event.action,
        harken.event_name(event),
    )


def test_keywords_are_inherited_from_a_base() -> None:
    """
    A base class without a name says for all its members what they do not say themselves.
    """
    info = harken.describe(Seen)

    assert (True, "look", "thing:{thing}", Outcome.success) == (
        info.audit,
        info.action,
        info.resource,
        info.outcome,
    )


def test_keywords_are_inherited_from_a_named_type() -> None:
    """
    A subclass of a type with a name is a type of its own.
    """

    class SeenTwice(Seen, name="eventtest.seen_twice", audit=False):
        """
        More special.
        """

    info = harken.describe(SeenTwice)
    assert (False, "look", ()) == (info.audit, info.action, info.key)


def test_action_and_resource_by_default() -> None:
    """
    Without keywords the action is the name's last word, and the resource unknown.
    """
    assert ("named", "unknown") == (
        harken.describe(Named).action,
        harken.describe(Named).resource,
    )


def test_outcome_from_a_field() -> None:
    """
    A type may read its outcome from a field; a word nobody knows is unknown.
    """

    class Judged(
        Event, name="eventtest.judged", outcome=outcome_from("ok", true="success", false="denied")
    ):
        """
        Something was judged.
        """

        ok: bool | str

    bus = harken.Bus()
    bus.subscribe(lambda envelope: None)

    outcomes = []
    for value in (True, False, "timeout", "perhaps"):
        envelope = bus.publish(Judged(ok=value))
        assert envelope is not None
        outcomes.append(envelope.outcome)
    assert [Outcome.success, Outcome.denied, Outcome.timeout, Outcome.unknown] == outcomes


def test_base_class_is_not_published() -> None:
    """
    A base class has no name, so nothing can be recorded under it.
    """
    with pytest.raises(UnknownEventError, match="Base has no event name; declare it as class Base"):
        harken.Bus().publish(Base())


def _clash() -> None:
    class Other(Event, name="eventtest.paid"):
        """
        Claims a name that is taken.
        """


def _bad_name() -> None:
    class BadName(Event, name="InvoicePaid"):
        """
        Not dotted.
        """


def _reserved() -> None:
    class Reserved(Event, name="audit.mine"):
        """
        A name that is ours.
        """


def _bad_template() -> None:
    class BadTemplate(Event, name="eventtest.bad_template", resource="x:{nothing}"):
        """
        Names no field.
        """


def _bad_key() -> None:
    class BadKey(Event, name="eventtest.bad_key", key="nothing"):
        """
        Names no field.
        """


def _bad_end() -> None:
    class BadEnd(Event, name="eventtest.bad_end", ends=Base):
        """
        Ends what cannot start.
        """


def _bad_outcome() -> None:
    class BadOutcome(Event, name="eventtest.bad_outcome", outcome="fine"):
        """
        No outcome of ours.
        """


def _bad_outcome_field() -> None:
    class BadOutcomeField(Event, name="eventtest.bad_field", outcome=outcome_from("nothing")):
        """
        Reads no field.
        """


@pytest.mark.parametrize(
    ("declare", "error", "message"),
    [
        (_clash, EventNameClashError, r"\.Other and .*\.Paid both claim the name 'eventtest.paid'"),
        (_bad_name, EventError, "'InvoicePaid' is no event name; use lower-case words"),
        (_reserved, EventError, "names under 'audit' are kept for control records"),
        (_bad_template, EventError, "'nothing' is neither a field nor an envelope member"),
        (_bad_key, EventError, "'nothing' is neither a field nor an envelope member"),
        (_bad_end, EventError, "ends= must be an event type with a name"),
        (_bad_outcome, EventError, "'fine' is no outcome; use one of success"),
        (_bad_outcome_field, EventError, r"outcome_from\('nothing'\) names no field"),
        (lambda: content("pictures"), EventError, "content kind 'pictures' is unknown"),  # type: ignore[arg-type]
    ],
)
def test_wrong_declaration(
    declare: Callable[[], object], error: type[HarkenError], message: str
) -> None:
    """
    A wrong declaration is one error that names the class and what to do, and registers nothing.
    """
    before = harken.event_types()

    with pytest.raises(error, match=message):
        declare()
    assert before == harken.event_types()


def test_declared_again() -> None:
    """
    A notebook cell that is run twice declares its class twice.
    """

    def declare() -> type[Event]:
        class Again(Event, name="eventtest.again"):
            """
            The same every time.
            """

        return Again

    first, second = declare(), declare()

    assert first is not second
    assert second is harken.find("eventtest.again")


def test_end_declared_again_replaces_itself() -> None:
    """
    Declaring an end twice leaves one end.
    """

    class Started(Event, name="eventtest.started"):
        """
        Opens.
        """

    def declare() -> None:
        class Ended(Event, name="eventtest.ended", ends=Started):
            """
            Ends.
            """

    declare()
    declare()

    assert 1 == len(harken.describe(Started).terminals)


def test_end_declared_after_its_start_was_published() -> None:
    """
    A type becomes a start when its end is declared, also on a bus that knows it already.
    """

    class Begun(Event, name="eventtest.begun"):
        """
        No operation yet.
        """

    bus = harken.Bus()
    bus.subscribe(lambda envelope: None)
    bus.publish(Begun())

    class Done(Event, name="eventtest.done", ends=Begun):
        """
        Now it is one.
        """

    bus.publish(Begun())
    assert 1 == bus.health().open_operations
    bus.close()


def test_names_of_the_catalog_are_taken() -> None:
    """
    Whoever comes first does not get the name of a type of the catalog.
    """
    with pytest.raises(EventNameClashError, match=r"both claim the name 'tool\.started'"):

        class Mine(Event, name="tool.started"):
            pass


def test_find() -> None:
    """
    A type is found by its dotted name, those of the catalog without an import.
    """
    assert "tool.started" == harken.event_name(harken.find("tool.started"))
    assert Paid is harken.find("eventtest.paid")
    with pytest.raises(UnknownEventError, match=r"did you mean tool\.started"):
        harken.find("tool.strated")
    with pytest.raises(UnknownEventError, match="see `harken catalog`"):
        harken.find("zzz")


def test_schema() -> None:
    """
    The JSON Schema says fields, units, content and what the keywords say.
    """
    schema = harken.schema(Paid)

    jsonschema.Draft202012Validator.check_schema(schema)
    assert {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "eventtest.paid",
        "description": "An invoice was paid.",
        "type": "object",
        "properties": {
            "invoice_id": {"type": "string"},
            "amount_eur": {"type": "number", "x-unit": "EUR", "default": 0.0},
            "note": {"x-content": "text", "default": None},
            "tags": {"type": "array", "items": {"type": "string"}, "default": []},
        },
        "required": ["invoice_id"],
        "x-harken": {
            "audit": True,
            "action": "pay",
            "resource": "invoice:{invoice_id}",
            "schema_version": 1,
            "ends": None,
        },
    } == schema


def test_decode() -> None:
    """
    Data from outside becomes an event; fields of a later version are ignored.
    """
    expected = Paid(invoice_id="i-1", amount_eur=2.5)

    assert expected == harken.decode(
        "eventtest.paid", b'{"invoice_id":"i-1","amount_eur":2.5,"new":1}'
    )
    assert expected == harken.decode("eventtest.paid", {"invoice_id": "i-1", "amount_eur": 2.5})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"invoice_id": 7}', r"eventtest.paid: Expected `str`, got `int` - at `\$.invoice_id`"),
        ({}, "missing required field `invoice_id`; see `harken schema eventtest.paid`"),
        (b"{", "eventtest.paid: Input data was truncated"),
    ],
)
def test_wrong_data(data: bytes | dict[str, JSON], message: str) -> None:
    """
    Data that does not fit is an error that names the field and the next step.
    """
    with pytest.raises(EventDataError, match=message):
        harken.decode("eventtest.paid", data)


def test_names_of_the_catalog_are_taken_before_it_is_imported(
    run_python: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    """
    A name of the catalog is refused to an author who has never imported the catalog.
    """
    code = textwrap.dedent("""
        from harken import Event
        from harken.errors import EventNameClashError

        try:
            class Mine(Event, name="tool.started"):
                pass
        except EventNameClashError as error:
            print("refused:", error)
    """)

    printed = run_python(code).stdout

    assert printed.startswith("refused: ")
    assert "harken.catalog" in printed


def test_the_catalog_is_found_without_an_import(
    run_python: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    """
    A type of the catalog is there for whoever knows its name, and nothing more.
    """
    printed = run_python("from harken import find; print(find('tool.started').__name__)").stdout

    assert "ToolStarted\n" == printed
