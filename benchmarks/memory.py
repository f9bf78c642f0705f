"""
How much memory an event takes while it waits in a queue, beside its payload.

The payload is the event with its values, which are the publisher's, and their JSON, which is taken
when it is published. What is beside it are the envelope and the place in the queue.
"""

from __future__ import annotations

import gc
import sys
import threading
import tracemalloc
from collections.abc import Callable, Sequence

from measure import begin, interleaved

from harken import Bus, Envelope, Event, scope


class Searched(
    Event, name="benchmark.searched", audit=True, action="search", resource="host:{host}"
):
    """
    A host was searched for something.
    """

    host: str
    query: str
    matches: int


class Held:
    """
    A sink that does not return from its first call before it is told to.
    """

    delivery = "worker"

    def __init__(self) -> None:
        self.called = threading.Event()
        self.released = threading.Event()

    def write(self, batch: Sequence[Envelope[Event]], /) -> None:
        """
        Wait.
        """
        self.called.set()
        self.released.wait()


def event(number: int) -> Searched:
    """
    Return an event whose values no other event shares.
    """
    return Searched(host=f"build-{number}", query=f"error number {number} " * 12, matches=number)


def traced_bytes(call: Callable[[int], object], number: int) -> float:
    """
    Return by how much the memory in use grows with each *call*, whose results are not kept.
    """
    gc.collect()
    before, _ = tracemalloc.get_traced_memory()
    for each in range(number):
        call(each + 1_000_000)
    gc.collect()
    return (tracemalloc.get_traced_memory()[0] - before) / number


def payload_bytes(number: int) -> float:
    """
    Return how much the events alone take, and their JSON.
    """
    kept: list[object] = [None] * number
    encoded: list[object] = [None] * number

    def keep(each: int) -> None:
        made = event(each)
        kept[each - 1_000_000] = made
        encoded[each - 1_000_000] = b'{"host":"%b","query":"%b","matches":%d}' % (
            made.host.encode(),
            made.query.encode(),
            made.matches,
        )

    return traced_bytes(keep, number)


def queued_bytes(number: int, sinks: int) -> float:
    """
    Return how much one event takes that waits for so many sinks.
    """
    bus = Bus()
    held = [Held() for _ in range(sinks)]
    for sink in held:
        bus.attach(sink, delivery="isolated", capacity=1_000_000, capacity_bytes=None)
    with scope(run_id="r-42", session_id="s-1", actor="agent:billing"):
        bus.publish(event(0))
        for sink in held:
            sink.called.wait()
        found = traced_bytes(lambda each: bus.publish(event(each)), number)
    for sink in held:
        sink.released.set()
    bus.close()
    return found


def main() -> int:
    results = begin(__doc__, __file__, rounds=5)
    number = results.scaled(20_000)
    tracemalloc.start()
    found = interleaved(
        {
            "payload": lambda: payload_bytes(number),
            "one": lambda: queued_bytes(number, 1),
            "four": lambda: queued_bytes(number, 4),
        },
        results.rounds,
    )
    tracemalloc.stop()
    results.add("payload: event, values and JSON", found["payload"], "B")
    for title, key in (("one sink", "one"), ("four sinks", "four")):
        beside = [all_ - own for all_, own in zip(found[key], found["payload"], strict=True)]
        results.add(f"beside its payload, queued for {title}", beside, "B", bar=300)
    results.save()
    return 0


if __name__ == "__main__":
    sys.exit(main())
