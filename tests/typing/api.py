"""
Each public call as a type checker sees it; a line that must not type-check carries its ignore.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import assert_type

import harken
import harken.forward
from harken import Bus, Envelope, Event, FlushReport, Operation, Outcome, Subscription
from harken.catalog import PolicyEvaluated, ToolCompleted, ToolStarted
from harken.client import traced_run
from harken.contract import Invocation, Tool, contract, current
from harken.received import Received
from harken.testing import Captured, assert_published, capture, snapshot
from harken.testing.sink_conformance import check_sink


class InvoicePaid(Event, name="typing.invoice_paid", audit=True, resource="invoice:{invoice_id}"):
    """
    An invoice was paid.
    """

    invoice_id: str
    amount_eur: float


class DeployStarted(Event, name="typing.deploy_started", key="deploy_id"):
    """
    A deployment began.
    """

    deploy_id: str = ""


class DeployCompleted(Event, name="typing.deploy_completed", ends=DeployStarted):
    """
    A deployment ended.
    """


bus = Bus()


def on_paid(envelope: Envelope[InvoicePaid]) -> None:
    assert_type(envelope.event.amount_eur, float)
    assert_type(envelope.outcome, Outcome | None)
    assert_type(envelope.time, datetime)


def on_any(envelope: Envelope[Event]) -> None:
    assert_type(envelope.name, str)


def on_two(envelope: Envelope[InvoicePaid | ToolStarted]) -> None:
    assert_type(envelope.event, InvoicePaid | ToolStarted)


async def on_paid_async(envelope: Envelope[InvoicePaid]) -> None: ...


class Counter:
    """
    A sink is anything with ``write(batch)``.
    """

    def write(self, batch: Sequence[Envelope[Event]], /) -> None: ...


assert_type(bus.subscribe(on_any), Subscription)
bus.subscribe(on_paid, InvoicePaid)
bus.subscribe(on_paid_async, InvoicePaid)
bus.subscribe(on_two, InvoicePaid, ToolStarted)
bus.subscribe(on_any, InvoicePaid, ToolStarted, ToolCompleted, PolicyEvaluated, DeployStarted)
bus.subscribe(on_any, where=lambda envelope: envelope.audit, delivery="worker")
bus.subscribe(on_paid, ToolStarted)  # type: ignore[arg-type]
bus.subscribe(on_any, delivery="later")  # type: ignore[call-overload]
bus.attach(Counter(), InvoicePaid, capacity=10, overflow="block", block_timeout=1.0)
bus.attach(on_any)  # type: ignore[arg-type]


@bus.on(InvoicePaid)
def paid(envelope: Envelope[InvoicePaid]) -> None:
    assert_type(envelope.event, InvoicePaid)


assert_type(
    bus.publish(InvoicePaid(invoice_id="i-1", amount_eur=9.5)), Envelope[InvoicePaid] | None
)
bus.publish(
    InvoicePaid(invoice_id="i-1", amount_eur=9.5),
    audit=True,
    time=datetime.now(UTC),
    attributes={"tenant": "t-1"},
    causes=["an-id"],
)
bus.publish("invoice.paid")  # type: ignore[type-var]
InvoicePaid(invoice_id="i-1")  # type: ignore[call-arg]
InvoicePaid(invoice_id="i-1", amount_eur="nine")  # type: ignore[arg-type]
InvoicePaid("i-1", 9.5)  # type: ignore[call-arg]

if (envelope := bus.publish(InvoicePaid(invoice_id="i-1", amount_eur=9.5))) is not None:
    envelope.event.amount_eur = 1.0  # type: ignore[misc]

assert_type(bus.enabled(InvoicePaid), bool)

with (
    harken.scope(run_id="r-42", actor="agent:billing", tenant="t-1"),
    bus.operation(ToolStarted(tool_name="search")) as op,
):
    assert_type(op, Operation[ToolStarted])
    assert_type(op.event.tool_name, str)
    op.complete(result_size=2340)


async def agent() -> None:
    async with bus.operation(DeployStarted()) as op:
        op.fail(ValueError("no"), outcome="failure")
    assert_type(await bus.aflush(timeout=1), FlushReport)
    await bus.aclose()


def work(number: int) -> str:
    return str(number)


assert_type(harken.bind(work)(3), str)
assert_type(harken.child_env(), dict[str, str])
harken.inject({})
harken.register_trace_target(lambda inside: lambda: print(inside.operation))
harken.register_trace_target(None)
assert_type(bus.flush(timeout=5), FlushReport)
assert_type(bus.health()["Counter"].dropped, int)
assert_type(harken.configure(bus, traces="off"), Bus)

with capture(bus, InvoicePaid) as heard:
    assert_type(heard, Captured)
assert_type(assert_published(heard, InvoicePaid, count=0), list[Envelope[InvoicePaid]])
assert_type(snapshot(heard), str)
check_sink(Counter)
check_sink(InvoicePaid)  # type: ignore[arg-type]
for arrived in harken.forward.consume("redis://127.0.0.1:6379", group="central"):
    assert_type(arrived, Received[Event])
    assert_type(arrived.origin, str)
    assert_type(bus.republish(arrived), Received[Event] | None)
bus.republish(bus.publish(InvoicePaid(invoice_id="7", amount_eur=1.0)))  # type: ignore[arg-type]
app = contract(print, tool="deployctl", version="1.2.3")
assert_type(app, Tool)
with contract.invocation("nightly-job", argv=()) as call:
    assert_type(call, Invocation)
    call.set(data={"rows": 42})
    assert_type(call.bus, Bus)
assert_type(current(), Invocation | None)
answer = traced_run(["true"], operation="count", returns=InvoicePaid, bus=bus)
assert_type(answer.data, InvoicePaid | None)
assert_type(answer.meta.duration_ms, int)
traced_run(["true"])  # type: ignore[call-overload]
contract(print)  # type: ignore[call-arg]
