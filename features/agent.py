"""
The agent that the features are about, as small as it can be.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from parse import with_pattern

from harken import Bus, Event
from harken.catalog import PrCreated, ToolStarted

SPAN = "00f067aa0ba902b7"
"""The caller's span, around what the agent does for it."""


class Invoice(Event):
    """
    Whatever has to do with an invoice.
    """

    invoice_id: str = "i-17"


class InvoicePaid(Invoice, name="invoice.paid", audit=True, resource="invoice:{invoice_id}"):
    """
    An invoice was paid by an agent.
    """


class InvoiceDisputed(Invoice, name="invoice.disputed", resource="invoice:{invoice_id}"):
    """
    An invoice was found to be wrong.
    """


def call_tool(bus: Bus, name: str = "search") -> None:
    with bus.operation(ToolStarted(tool_name=name)):
        pass


def open_pull_request(bus: Bus, number: int = 1) -> None:
    bus.publish(PrCreated(url=f"/pull/{number}"))


def returns(bus: Bus) -> None:
    call_tool(bus)


def raises_an_error(bus: Bus) -> None:
    with bus.operation(ToolStarted(tool_name="search")):
        raise ValueError("no such invoice")


def runs_out_of_time(bus: Bus) -> None:
    with bus.operation(ToolStarted(tool_name="search")):
        raise TimeoutError


def is_cancelled(bus: Bus) -> None:
    async def main() -> None:
        async def tool() -> None:
            async with bus.operation(ToolStarted(tool_name="search")):
                task.cancel()
                await asyncio.sleep(60)

        task = asyncio.create_task(tool())
        await asyncio.wait([task])

    asyncio.run(main())


def is_forbidden(bus: Bus) -> None:
    with bus.operation(ToolStarted(tool_name="search")) as call:
        call.deny("the books are closed", rule="closed-books")


def hands_its_work_on(bus: Bus) -> None:
    with bus.operation(ToolStarted(tool_name="search")) as call:
        call.complete(outcome="deferred")


def claims_success_and_fails(bus: Bus) -> None:
    with bus.operation(ToolStarted(tool_name="search")) as call:
        call.complete(result_size=12)
        raise ValueError("the answer was judged and is none")


ENDINGS: dict[str, Callable[[Bus], None]] = {
    "returns": returns,
    "raises an error": raises_an_error,
    "runs out of time": runs_out_of_time,
    "is cancelled": is_cancelled,
    "is forbidden by a policy": is_forbidden,
    "hands its work on": hands_its_work_on,
    "claims success and then raises an error": claims_success_and_fails,
}


@with_pattern("|".join(ENDINGS))
def ending(text: str) -> Callable[[Bus], None]:
    """
    Return what a tool does that *text* names.
    """
    return ENDINGS[text]
