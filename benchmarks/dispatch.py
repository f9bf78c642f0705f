"""
What it costs to publish one event to 0, 1 and 4 inline handlers that do nothing.

harken is compared with `blinker.Signal.send`, psygnal, pyee, the dispatcher of llama-index and a
bare loop of calls. The event exists already everywhere; harken's share includes the envelope with
time, sequence number and scope. psygnal's ``emit_fast`` checks nothing and isolates nobody. ``by
hand`` makes the envelope and guards each call, without anything that a bus decides (`by_hand.py`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import blinker
import psygnal
import pyee.base
from by_hand import handing_over
from llama_index_instrumentation.base import BaseEvent
from llama_index_instrumentation.dispatcher import Dispatcher
from llama_index_instrumentation.event_handlers import BaseEventHandler
from measure import Sample, begin, interleaved, timed

from harken import Bus, Envelope, Event, scope

BARS = {
    (0, "blinker send"): {"bar": 0.5, "stretch": 0.35},
    (4, "blinker send"): {"bar": 0.2, "stretch": 0.1},
}


class Ping(Event, name="benchmark.ping"):
    """
    Something happened.
    """

    number: int = 0


class Ignoring(BaseEventHandler):
    """
    A handler of llama-index that does nothing.
    """

    def handle(self, event: BaseEvent, **kwargs: Any) -> None:
        """
        Do nothing.
        """


def handler() -> Callable[[object], None]:
    """
    Return a new function that does nothing; a bus may know that two are the same.
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


def samples(handlers: int, *, quick: bool) -> dict[str, Sample]:
    """
    Return what measures publishing to so many handlers, by name.
    """
    event = Ping()
    found: dict[str, Sample] = {}

    bus = Bus()
    for _ in range(handlers):
        bus.subscribe(handler(), Ping)
    found["harken"] = timed("publish(event)", {"publish": bus.publish, "event": event}, quick=quick)

    signal = blinker.Signal()
    for _ in range(handlers):
        signal.connect(receiver(), weak=False)
    found["blinker send"] = timed(
        "send(Ping, event=event)", {"send": signal.send, "Ping": Ping, "event": event}, quick=quick
    )

    class Source:
        happened = psygnal.Signal(object)

    source = Source()
    for _ in range(handlers):
        source.happened.connect(handler())
    instance = source.happened
    found["psygnal emit"] = timed(
        "emit(event)", {"emit": instance.emit, "event": event}, quick=quick
    )
    found["psygnal emit_fast"] = timed(
        "emit(event)", {"emit": instance.emit_fast, "event": event}, quick=quick
    )

    emitter = pyee.base.EventEmitter()
    for _ in range(handlers):
        emitter.on("ping", handler())
    found["pyee emit"] = timed(
        "emit('ping', event)", {"emit": emitter.emit, "event": event}, quick=quick
    )

    dispatcher = Dispatcher(
        name="dispatch", event_handlers=[Ignoring() for _ in range(handlers)], propagate=False
    )
    found["llama-index event"] = timed(
        "dispatch(event)", {"dispatch": dispatcher.event, "event": BaseEvent()}, quick=quick
    )

    if handlers:
        publish = handing_over(event, [handler() for _ in range(handlers)])
        found["by hand"] = timed(
            "publish(event)", {"publish": publish, "event": event}, quick=quick
        )

    found["bare calls"] = timed(
        "for call in calls: call(event)",
        {"calls": tuple(handler() for _ in range(handlers)), "event": event},
        quick=quick,
    )
    return found


def heard(envelope: Envelope[Event]) -> None:
    """
    Do nothing.
    """


def main() -> int:
    results = begin(__doc__, __file__, rounds=21, quick=3)
    for handlers in (0, 1, 4):
        times = interleaved(samples(handlers, quick=results.quick), results.rounds)
        for name, values in times.items():
            results.add(f"handlers {handlers}: {name}", [value * 1e6 for value in values], "us")
        for name, values in times.items():
            if name != "harken":
                bar = BARS.get((handlers, name), {})
                results.compare(
                    f"handlers {handlers}: harken / {name}", times["harken"], values, **bar
                )
        if handlers:
            ratio = f"handlers {handlers}: by hand / blinker send"
            results.compare(ratio, times["by hand"], times["blinker send"])
    bus = Bus()
    bus.subscribe(heard, Ping)
    names = {"publish": bus.publish, "enabled": bus.enabled, "Ping": Ping}
    silent = {"publish": Bus().publish, "enabled": Bus().enabled, "Ping": Ping}
    with scope(run_id="r-42", session_id="s-1", actor="agent:billing"):
        times = interleaved(
            {
                "make the event": timed("Ping(number=1)", names, quick=results.quick),
                "make and publish it, in a scope": timed(
                    "publish(Ping(number=1))", names, quick=results.quick
                ),
                "make and publish it, nobody listens": timed(
                    "publish(Ping(number=1))", silent, quick=results.quick
                ),
                "ask whether anybody listens": timed("enabled(Ping)", silent, quick=results.quick),
            },
            results.rounds,
        )
    for name, values in times.items():
        results.add(name, [value * 1e6 for value in values], "us")
    results.save()
    return 0


if __name__ == "__main__":
    sys.exit(main())
