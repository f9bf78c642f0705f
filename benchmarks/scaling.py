"""
How the cost of one event grows with payload, subscribers, types, threads and tasks.

``payload`` is an event with a text of so many KB, audited before `Bus.publish()` returns, with
redaction on and off, beside a line of python-json-logger with the same text; and the share of the
publisher when the audit log works on another thread. ``subscribers`` do nothing. ``types`` are
event types with a handler each, of which one is published. ``threads`` publish at the same time,
which under the interpreter lock makes nothing faster; the figure is the time on the wall for one
event of all. ``tasks`` are those of asyncio, each publishing and then letting the others run.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import blinker
from measure import Results, Sample, begin, calling, interleaved, timed
from naive import file_logger
from pythonjsonlogger.json import JsonFormatter

from harken import Bus, Envelope, Event
from harken.sinks.audit import AuditLog

WORDS = "the quick brown fox looks at the state of every host, and writes it down; "
SIZES = (0.1, 1, 10, 100)
SUBSCRIBERS = (1, 2, 4, 8, 16, 32, 64)
TYPES = (1, 10, 100)
THREADS = (1, 2, 8)
TASKS = 1000
EVENTS_IN_A_TURN = 10


class Noted(Event, name="benchmark.noted", audit=True, action="note", resource="note:{number}"):
    """
    Something was noted.
    """

    number: int = 0
    text: str = ""


class Counted(Event, name="benchmark.counted"):
    """
    Something was counted.
    """

    number: int = 0


def new_type(number: int) -> type[Event]:
    """
    Return another type of event.
    """

    class Another(Event, name=f"benchmark.another_{number}"):
        """
        Something else happened.
        """

    return Another


class Ignoring:
    """
    A sink that does nothing.
    """

    delivery = "worker"

    def write(self, batch: Sequence[Envelope[Event]], /) -> None:
        """
        Do nothing.
        """


def handler() -> Callable[[object], None]:
    """
    Return a new function that does nothing.
    """

    def ignore(event: object) -> None:
        pass

    return ignore


def receiver() -> Callable[[object, object], None]:
    """
    Return the same for blinker.
    """

    def ignore(sender: object, event: object) -> None:
        pass

    return ignore


def payload(results: Results, folder: Path) -> None:
    """
    Add what an event costs with a small and with a large text.
    """
    for size in SIZES:
        text = (WORDS * (int(size * 1000) // len(WORDS) + 1))[: int(size * 1000)]
        event = Noted(number=1, text=text)
        calls = results.scaled(max(int(300 / max(size, 1)), 20))
        samples: dict[str, Sample] = {}
        buses: list[Bus] = []
        for title, redaction, durability in (
            ("harken, redacted", True, "process"),
            ("harken", False, "process"),
            ("harken's publisher, audit async", True, "async"),
        ):
            bus = Bus(redaction=redaction)
            path = folder / f"{title}-{size}.jsonl"
            buses.append(bus)
            bus.attach(AuditLog(path, durability="async" if durability == "async" else "process"))
            samples[title] = calling(
                partial(bus.publish, event),
                calls,
                clock=time.thread_time if durability == "async" else time.perf_counter,
                after=partial(bus.flush, 60),
            )
        log = file_logger(folder / f"{size}.log", JsonFormatter("%(asctime)s %(message)s"))
        line = partial(log.info, "noted", extra={"number": 1, "text": text})
        samples["python-json-logger"] = calling(line, calls)
        found = interleaved(samples, results.rounds)
        for bus in buses:
            bus.close()
        for title, values in found.items():
            results.add(f"payload {size:g} KB: {title}", [value * 1e6 for value in values], "us")
        results.compare(
            f"payload {size:g} KB: harken, redacted / python-json-logger",
            found["harken, redacted"],
            found["python-json-logger"],
        )


def subscribers(results: Results) -> None:
    """
    Add what an event costs with few and with many subscribers.
    """
    event = Counted()
    for number in SUBSCRIBERS:
        inline, queued, signal = Bus(), Bus(), blinker.Signal()
        for _ in range(number):
            inline.subscribe(handler(), Counted)
            queued.attach(Ignoring())
            signal.connect(receiver(), weak=False)
        found = interleaved(
            {
                "harken inline": timed(
                    "publish(event)",
                    {"publish": inline.publish, "event": event},
                    quick=results.quick,
                ),
                "harken's publisher, worker": calling(
                    partial(queued.publish, event),
                    results.scaled(1000),
                    clock=time.thread_time,
                    after=partial(queued.flush, 60),
                ),
                "blinker send": timed(
                    "send(None, event=event)",
                    {"send": signal.send, "event": event},
                    quick=results.quick,
                ),
            },
            results.rounds,
        )
        for title, values in found.items():
            results.add(f"subscribers {number}: {title}", [value * 1e6 for value in values], "us")
        queued.close()


def types(results: Results) -> None:
    """
    Add what an event costs where few and where many types are listened to.
    """
    all_types = [new_type(number) for number in range(max(TYPES))]
    samples: dict[str, Sample] = {}
    for number in TYPES:
        bus, signal = Bus(), blinker.Signal()
        for cls in all_types[:number]:
            bus.subscribe(handler(), cls)
            signal.connect(receiver(), sender=cls, weak=False)
        names = {
            "publish": bus.publish,
            "send": signal.send,
            "event": all_types[0](),
            "cls": all_types[0],
        }
        samples[f"types {number}: harken"] = timed("publish(event)", names, quick=results.quick)
        samples[f"types {number}: blinker send"] = timed(
            "send(cls, event=event)", names, quick=results.quick
        )
    for title, values in interleaved(samples, results.rounds).items():
        results.add(title, [value * 1e6 for value in values], "us")


def crowd(call: Callable[[], object], threads: int, calls: int) -> float:
    """
    Return the seconds on the wall for one of so many calls, made by all *threads* together.
    """
    gate = threading.Barrier(threads + 1)

    def work() -> None:
        gate.wait()
        for _ in range(calls // threads):
            call()

    crew = [threading.Thread(target=work) for _ in range(threads)]
    for thread in crew:
        thread.start()
    gate.wait()
    begun = time.perf_counter()
    for thread in crew:
        thread.join()
    return (time.perf_counter() - begun) / (calls // threads * threads)


def threads(results: Results) -> None:
    """
    Add what an event costs when several threads publish at the same time.
    """
    calls = results.scaled(20_000)
    event = Counted()
    inline, queued, signal = Bus(), Bus(), blinker.Signal()
    inline.subscribe(handler(), Counted)
    queued.attach(Ignoring())
    signal.connect(receiver(), weak=False)

    def publish_and_flush(number: int) -> float:
        taken = crowd(lambda: queued.publish(event), number, calls)
        if not queued.flush(60) or any(one.dropped for one in queued.health().values()):
            raise RuntimeError("an event was lost")
        return taken

    publish, send = partial(inline.publish, event), partial(signal.send, None, event=event)
    samples: dict[str, Sample] = {}
    for number in THREADS:
        samples[f"threads {number}: harken inline"] = partial(crowd, publish, number, calls)
        samples[f"threads {number}: harken worker"] = partial(publish_and_flush, number)
        samples[f"threads {number}: blinker send"] = partial(crowd, send, number, calls)
    for title, values in interleaved(samples, results.rounds).items():
        results.add(title, [value * 1e6 for value in values], "us")
    queued.close()


def tasks(results: Results) -> None:
    """
    Add what an event costs when a thousand tasks of asyncio publish in turn.
    """
    turns = 2
    event = Counted()
    inline, queued, signal = Bus(), Bus(), blinker.Signal()
    inline.subscribe(handler(), Counted)
    queued.attach(Ignoring())
    signal.connect(receiver(), weak=False)

    async def all_tasks(call: Callable[[], object]) -> float:
        async def work() -> None:
            for _ in range(turns):
                for _ in range(EVENTS_IN_A_TURN):
                    call()
                await asyncio.sleep(0)

        begun = time.thread_time()
        async with asyncio.TaskGroup() as group:
            for _ in range(TASKS):
                group.create_task(work())
        return (time.thread_time() - begun) / (TASKS * turns * EVENTS_IN_A_TURN)

    def flushed(taken: float) -> float:
        queued.flush(60)
        return taken

    found = interleaved(
        {
            "nothing": lambda: asyncio.run(all_tasks(float)),
            "harken inline": lambda: asyncio.run(all_tasks(partial(inline.publish, event))),
            "harken worker": lambda: flushed(
                asyncio.run(all_tasks(partial(queued.publish, event)))
            ),
            "blinker send": lambda: asyncio.run(all_tasks(partial(signal.send, None, event=event))),
        },
        results.rounds,
    )
    idle = found.pop("nothing")
    for title, values in found.items():
        net = [(value - nothing) * 1e6 for value, nothing in zip(values, idle, strict=True)]
        results.add(f"tasks {TASKS}: {title}, without the loop's share", net, "us")
    queued.close()


def main() -> int:
    results = begin(__doc__, __file__, rounds=7)
    with tempfile.TemporaryDirectory(prefix="harken-benchmark-") as name:
        payload(results, Path(name))
    subscribers(results)
    types(results)
    threads(results)
    tasks(results)
    results.save()
    return 0


if __name__ == "__main__":
    sys.exit(main())
