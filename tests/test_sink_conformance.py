"""
The checks that any sink can be put to: ours pass them, and one that is broken does not.
"""

from __future__ import annotations

import contextvars
import io
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from harken import Envelope, Event, Sink
from harken.sinks.otel import SpanRecorder
from harken.sinks.prometheus import PrometheusInstrumenter
from harken.sinks.structlog import LogHandler
from harken.testing import Captured, sink_conformance
from harken.testing.sink_conformance import CHECKS, Check, check_sink

STOP = threading.Event()
VARIABLE: contextvars.ContextVar[int] = contextvars.ContextVar("VARIABLE", default=0)


def audit_log(folder: Path) -> Sink:
    from harken.sinks.audit import AuditLog

    return AuditLog(folder / "audit.jsonl")


OURS: dict[str, Callable[[Path], Sink]] = {
    "audit": audit_log,
    "prometheus": lambda folder: PrometheusInstrumenter(),
    "structlog": lambda folder: LogHandler(io.StringIO()),
    "otel": lambda folder: SpanRecorder(InMemorySpanExporter()),
    "captured": lambda folder: Captured(),
}


@pytest.mark.once
@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_our_own_conform(check: Check, name: str, tmp_path: Path) -> None:
    """
    What is asked of a third party's sink is asked of harken's own.
    """
    check(lambda: OURS[name](tmp_path))


class Refusing:
    """
    A sink that knows one type only.
    """

    def write(self, batch: Sequence[Envelope[Event]], /) -> None:
        for envelope in batch:
            if envelope.name != "tool.started":
                raise KeyError(envelope.name)


class Printing:
    """
    A sink that cannot print everything.
    """

    def write(self, batch: Sequence[Envelope[Event]], /) -> None:
        for envelope in batch:
            str(getattr(envelope.event, "tool_name", "")).encode()


class Pairing:
    """
    A sink that takes every end to have a start.
    """

    def write(self, batch: Sequence[Envelope[Event]], /) -> None:
        for envelope in batch:
            if envelope.type.is_terminal:
                assert envelope.started is not None


class Popping(Captured):
    """
    A sink that takes a batch for a list.
    """

    def write(self, batch: Sequence[Envelope[Event]], /) -> None:
        while batch:
            batch.pop()  # type: ignore[attr-defined]


class Setting(Captured):
    """
    A sink that leaves a context variable behind.
    """

    def write(self, batch: Sequence[Envelope[Event]], /) -> None:
        VARIABLE.set(VARIABLE.get() + 1)


class Growing(Captured):
    """
    A sink with one list for all.
    """

    names_of_all: list[str] = []

    def write(self, batch: Sequence[Envelope[Event]], /) -> None:
        self.names_of_all.append("")
        assert len(self.names_of_all) < 300


class Sluggish(Captured):
    """
    A sink that says a flush has left something.
    """

    def flush(self, timeout: float) -> bool:
        return False


class Lingering(Captured):
    """
    A sink that leaves a thread behind, which no process would wait for.
    """

    def __init__(self) -> None:
        super().__init__()
        threading.Thread(target=STOP.wait, daemon=True).start()


class Unforked(Captured):
    """
    A sink that a forked child cannot use.
    """

    def after_fork(self, pid: int) -> None: ...


class Misdelivered(Captured):
    """
    A sink with a delivery that there is not.
    """

    delivery = "quickly"


class Alone(Captured):
    """
    A sink of which there can be only one.
    """

    taken: set[str] = set()

    def attached(self, bus: Any) -> None:
        if "here" in self.taken:
            raise RuntimeError("there is one already")
        self.taken.add("here")


BROKEN: dict[str, type[Any]] = {
    "takes_what_the_bus_tells_it": Unforked,
    "takes_every_type": Refusing,
    "takes_strange_values": Printing,
    "takes_every_ending": Pairing,
    "takes_batches_of_any_size": Popping,
    "leaves_the_context_alone": Setting,
    "works_with_every_delivery": Growing,
    "flushes_and_closes": Sluggish,
    "has_the_members_of_a_sink": Misdelivered,
    "shares_a_bus_with_its_like": Alone,
}


@pytest.mark.once
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_one_does_not(name: str) -> None:
    """
    The check that is about what is broken finds it.
    """
    check = {check.__name__: check for check in CHECKS}[name]

    with pytest.raises(
        (AssertionError, LookupError, AttributeError, ValueError, RuntimeError, TypeError)
    ):
        check(BROKEN[name])


@pytest.mark.once
def test_a_thread_that_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Also one that no process waits for at its end.
    """
    monkeypatch.setattr(sink_conformance, "TIMEOUT", 0.1)
    try:
        with pytest.raises(AssertionError, match="left behind"):
            sink_conformance.flushes_and_closes(Lingering)
    finally:
        STOP.set()


def test_a_destination_that_refuses(tmp_path: Path) -> None:
    """
    It is said what a sink failed with, not only that something was left.
    """

    class Full(Captured):
        def write(self, batch: Sequence[Envelope[Event]], /) -> None:
            raise OSError("the table is full")

        def flush(self, timeout: float) -> bool:
            return False

    with pytest.raises(AssertionError, match="the table is full"):
        sink_conformance.works_with_every_delivery(Full)


def test_a_sink_instead_of_a_function() -> None:
    with pytest.raises(TypeError, match="takes a function that makes a sink"):
        check_sink(Captured())  # type: ignore[arg-type]


def test_all_at_once() -> None:
    """
    Without pytest, one call runs every check and tells of each that does not hold.
    """
    before = threading.active_count()
    check_sink(Captured)
    with pytest.raises(ExceptionGroup, match="does not conform") as raised:
        check_sink(Refusing)

    notes = [note for error in raised.value.exceptions for note in error.__notes__]
    assert "takes_every_type: " == notes[0][:18]
    assert before == threading.active_count()
