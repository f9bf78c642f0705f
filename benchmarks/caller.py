"""
What the publisher itself pays when all four sinks work on other threads, against one log line.

That is the processor time of the publishing thread per event, its construction included, for a
point event and for the start and end of a tool call, each of about 300 bytes; beside one line of
`logging` through python-json-logger to a file, which says as much. What the sinks do with an event
is not in it: see `pipeline.py`. ``by hand`` puts envelope and JSON into one queue without bounds,
and decides nothing (`by_hand.py`). An event for nobody, and `logging` to nowhere, are the floors.
"""

from __future__ import annotations

import itertools
import logging
import sys
import tempfile
import time
from pathlib import Path

from by_hand import Queueing
from measure import begin, calling, interleaved
from naive import ARGUMENTS, RESULT, RESULT_SIZE, SCOPE, TOOL, file_logger
from pipeline import Harken
from pythonjsonlogger.json import JsonFormatter
from pythonjsonlogger.orjson import OrjsonFormatter

from harken import JSON, Bus, Event, scope
from harken.catalog import ToolCompleted, ToolStarted

BARS = {"bar": 0.1, "stretch": 0.05}


class HostSearched(
    Event, name="benchmark.host_searched", audit=True, action="search", resource="host:{host}"
):
    """
    A host was searched for something.
    """

    host: str
    query: str
    path: str
    limit: int
    recursive: bool
    arguments_digest: str
    matches: int


SEARCHED: dict[str, JSON] = {
    "host": "build-17",
    "query": ARGUMENTS["query"],
    "path": ARGUMENTS["path"],
    "limit": 50,
    "recursive": True,
    "arguments_digest": "sha256:" + "0f" * 32,
    "matches": 3,
}


def main() -> int:
    results = begin(__doc__, __file__, rounds=15)
    calls = results.scaled(2000)
    form = "%(asctime)s %(levelname)s %(name)s %(message)s"
    with tempfile.TemporaryDirectory(prefix="harken-benchmark-") as name:
        folder = Path(name)
        json_log = file_logger(folder / "json.log", JsonFormatter(form))
        orjson_log = file_logger(folder / "orjson.log", OrjsonFormatter(form))
        null_log = logging.getLogger("benchmark.nowhere")
        null_log.addHandler(logging.NullHandler())
        null_log.propagate = False
        null_log.setLevel(logging.INFO)
        queued = Harken(folder / "queued", delivery="worker", durability="async")
        queue = Queueing(
            HostSearched(**SEARCHED),
            ToolStarted(tool_name=TOOL),
            ToolCompleted(tool_name=TOOL, outcome="success"),
        )
        unheard = Bus()
        fields = {**SEARCHED, **SCOPE}

        def pair(call_id: str) -> None:
            queued.bus.publish(
                ToolStarted(tool_call_id=call_id, tool_name=TOOL, arguments=ARGUMENTS)
            )
            queued.bus.publish(
                ToolCompleted(
                    tool_call_id=call_id, tool_name=TOOL, result=RESULT, result_size=RESULT_SIZE
                )
            )

        def operation(call_id: str) -> None:
            start = ToolStarted(tool_call_id=call_id, tool_name=TOOL, arguments=ARGUMENTS)
            with queued.bus.operation(start) as op:
                op.complete(result=RESULT, result_size=RESULT_SIZE)

        call_ids = map("call-{}".format, itertools.count())
        clock = time.thread_time
        with scope(**SCOPE):
            found = interleaved(
                {
                    "point event": calling(
                        lambda: queued.bus.publish(HostSearched(**SEARCHED)),
                        calls,
                        clock=clock,
                        after=queued.flush,
                    ),
                    "start and end, two events": calling(
                        lambda: pair(next(call_ids)), calls, clock=clock, after=queued.flush
                    ),
                    "an operation around a block, two events": calling(
                        lambda: operation(next(call_ids)), calls, clock=clock, after=queued.flush
                    ),
                    "by hand: point event": calling(
                        lambda: queue.publish(HostSearched(**SEARCHED)),
                        calls,
                        clock=clock,
                        after=queue.flush,
                    ),
                    "by hand: start and end, two events": calling(
                        lambda: queue.pair(next(call_ids)),
                        calls,
                        clock=clock,
                        after=queue.flush,
                    ),
                    "nobody listens": calling(
                        lambda: unheard.publish(HostSearched(**SEARCHED)), calls, clock=clock
                    ),
                    "python-json-logger": calling(
                        lambda: json_log.info("host searched", extra=fields), calls, clock=clock
                    ),
                    "python-json-logger with orjson": calling(
                        lambda: orjson_log.info("host searched", extra=fields), calls, clock=clock
                    ),
                    "logging to nowhere": calling(
                        lambda: null_log.info("host searched", extra=fields), calls, clock=clock
                    ),
                },
                results.rounds,
            )
        queued.close()
    line = found["python-json-logger"]
    halves = [value / 2 for value in found["start and end, two events"]]
    results.compare("point event / python-json-logger", found["point event"], line, **BARS)
    results.compare("event of an operation / python-json-logger", halves, line, **BARS)
    results.compare(
        "point event / python-json-logger with orjson",
        found["point event"],
        found["python-json-logger with orjson"],
    )
    results.compare(
        "by hand: point event / python-json-logger", found["by hand: point event"], line
    )
    halves = [value / 2 for value in found["by hand: start and end, two events"]]
    results.compare("by hand: event of an operation / python-json-logger", halves, line)
    results.compare("nobody listens / python-json-logger", found["nobody listens"], line)
    for name, values in found.items():
        results.add(name, [value * 1e6 for value in values], "us")
    results.save()
    return 0


if __name__ == "__main__":
    sys.exit(main())
