"""
Steps for Behave: what whoever publishes on a bus can say about it in features of their own.

Importing this module in a file under ``features/steps`` defines the steps; `listen()` in
``before_scenario()`` says which bus they are about, and how the agent calls a tool.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import import_module
from typing import Any, Protocol, TypeAlias

from harken import JSON, Bus, Envelope, Event, decode, find
from harken.record import GENESIS, from_envelope
from harken.testing import Captured

Step: TypeAlias = Callable[..., None]

CallTool: TypeAlias = Callable[[str, dict[str, JSON]], object]
"""Has the agent call the tool of this name with these arguments."""

_ENDED = {"succeeded": "success", "failed": "failure", "timed out": "timeout"}

# Behave has no types; what it exports is made when it is imported.
when: Callable[[str], Callable[[Step], Step]] = import_module("behave").when
then: Callable[[str], Callable[[Step], Step]] = import_module("behave").then


class Context(Protocol):
    """
    What these steps need of Behave's context.

    Attributes:
        bus: The bus that is listened to.

        heard: What was published on it in this scenario.

        call_tool: Has the agent call a tool; what it raises is kept in *error*.

        error: What the last call raised, if anything.

        table: The table under a step, if there is one.
    """

    bus: Bus
    heard: Captured
    call_tool: CallTool | None
    error: Exception | None
    table: Any

    def add_cleanup(self, call: Callable[..., object], *args: object) -> None:
        """
        Have *call* made at the end of the scenario.
        """
        ...


def listen(context: Context, bus: Bus, call_tool: CallTool | None = None) -> None:
    """
    Let the steps of this scenario be about *bus*, from now on.

    It stays open: whoever made it closes it.

    Args:
        call_tool: Has the agent call the tool of this name with these arguments; None when no
            step says that it does.
    """
    context.bus = bus
    context.call_tool = call_tool
    context.error = None
    context.heard = Captured()
    context.add_cleanup(bus.attach(context.heard).cancel)


@when('"{name}" is published')
def is_published(context: Context, name: str) -> None:
    """
    Publish an event; a table gives its fields, as JSON or as plain text.
    """
    context.bus.publish(decode(name, {field: _value(text) for field, text in _rows(context)}))


@when('the agent calls the tool "{name}"')
def calls_the_tool(context: Context, name: str) -> None:
    """
    Have the agent call a tool; a table gives the arguments, as JSON or as plain text.
    """
    assert context.call_tool is not None, "listen() was not told how the agent calls a tool"
    try:
        context.call_tool(name, {member: _value(text) for member, text in _rows(context)})
    except Exception as error:
        context.error = error


@then("an audit record says it {ended}")
def record_says(context: Context, ended: str) -> None:
    """
    Compare the outcome of the last audited operation's record: it ``succeeded``, ``failed``,
    ``timed out``, or ``was denied``, ``was cancelled`` and so on; a table gives more members.
    """
    records = [one for one in _records(context) if one["outcome"] is not None]
    assert records, f"nothing that has ended is audited; published were {context.heard.names}"
    outcome = _ENDED.get(ended, ended.removeprefix("was "))
    expected = {"outcome": outcome, **dict(_rows(context))}
    found = {member: _member(records[-1], member) for member in expected}
    assert expected == found, f"the record says {found}"


@then("no audit record holds {text}")
def no_record_holds(context: Context, text: str) -> None:
    """
    Find no audit record with *text* in it.
    """
    found = [one for one in _records(context) if text in json.dumps(one)]
    assert not found, f"it is in the record {found[0]}"


@then('"{name}" was published')
def was_published(context: Context, name: str) -> None:
    """
    Find an event whose fields, or members of the envelope, are those of the table, if any.
    """
    expected = dict(_rows(context))
    found = _published(context, name)
    assert found, _nothing(context, name)
    said = [{member: _text(envelope, member) for member in expected} for envelope in found]
    assert expected in said, f"{name} was published with {' and '.join(map(str, said))}"


@then('"{name}" was published {count:d} times')
def was_published_times(context: Context, name: str, count: int) -> None:
    """
    Count the events of a type.
    """
    found = len(_published(context, name))
    assert count == found, f"{name} was published {found} times"


@then('"{name}" was not published')
def was_not_published(context: Context, name: str) -> None:
    """
    Find no event of a type.
    """
    found = _published(context, name)
    assert not found, f"{name} was published: {found[0].event}"


@then("these events were published")
def these_were_published(context: Context) -> None:
    """
    Compare the names of all events, in order; the heading of the table stands for nothing.
    """
    expected = [str(row[0]) for row in context.table]
    assert expected == context.heard.names, f"{', '.join(context.heard.names)} were published"


@then("every operation has ended")
def every_operation_has_ended(context: Context) -> None:
    """
    Find no operation that was started and is still open.
    """
    left = context.bus.health().open_operations
    assert left == 0, f"{left} operations have not ended"


def _records(context: Context) -> list[dict[str, Any]]:
    drafts = [from_envelope(one) for one in context.heard.envelopes if one.audit]
    lines = [draft.line(draft.time_ns, 1, "steps", 1, GENESIS)[0] for draft in drafts]
    return [json.loads(line) for line in lines]


def _member(record: Any, path: str) -> str:
    for name in path.split("."):
        record = record.get(name) if isinstance(record, dict) else None
    return record if isinstance(record, str) else json.dumps(record)


def _published(context: Context, name: str) -> list[Envelope[Event]]:
    find(name)
    return [envelope for envelope in context.heard.envelopes if envelope.name == name]


def _nothing(context: Context, name: str) -> str:
    others = ", ".join(dict.fromkeys(context.heard.names)) or "nothing"
    return f"{name} was not published, but {others}"


def _rows(context: Context) -> list[tuple[str, str]]:
    table = context.table
    if table is None:
        return []
    # The first row is no heading: a table of two columns names and gives values.
    return [(str(row[0]), str(row[1])) for row in (table.headings, *table)]


def _value(text: str) -> JSON:
    try:
        value: JSON = json.loads(text)
    except ValueError:
        return text
    return value


def _text(envelope: Envelope[Event], member: str) -> str:
    data = envelope.data()
    value = data[member] if member in data else getattr(envelope, member)
    return str(value) if isinstance(value, str) else json.dumps(value, default=str)
