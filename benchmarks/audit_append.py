"""
What one audited event of about 1 KB costs its publisher, against one line of a log.

Everything of `Bus.publish()` is measured, for each durability and with redaction on and off: with
``process``, the record is in the kernel when it returns; with ``group``, on the disk; with
``async``, in a queue. The lines beside it say the same: by `logging` with python-json-logger (the
yardstick), by structlog and by loguru. ``orjson + os.write`` is a line without a hash, a lock, or a
look whether the file is still there. ``by hand`` is the least Python that has these, for one event
and no other (`by_hand.py`): what no audit log can go below.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import loguru
import orjson
import structlog
from by_hand import auditing
from measure import Sample, begin, calling, interleaved
from naive import file_logger
from pythonjsonlogger.json import JsonFormatter
from pythonjsonlogger.orjson import OrjsonFormatter

from harken import JSON, Bus, Event
from harken.sinks.audit import AuditLog

ARGUMENTS: dict[str, JSON] = {
    "path": "infra/modules/network/main.tf",
    "query": "disk usage over 90 percent on the build hosts",
    "lines": list(range(20)),
    "text": "The quick brown fox looks at the state of every host, and writes it down. " * 10,
}
FIELDS: dict[str, JSON] = {
    "tool_name": "read_file",
    "tool_call_id": "call-1",
    "arguments": ARGUMENTS,
}
FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"
YARDSTICK = "python-json-logger"
BARS = {
    "harken process": {"bar": 0.5, "stretch": 0.35},
    "harken process, redacted": {"bar": 0.9, "stretch": 0.6},
}


class FileRead(
    Event, name="benchmark.file_read", audit=True, action="read", resource="file:{path}"
):
    """
    A file was read.
    """

    path: str
    arguments: dict[str, JSON]


READ = FileRead(path="infra/modules/network/main.tf", arguments=ARGUMENTS)


def by_logging(path: Path, formatter: logging.Formatter) -> Callable[[], object]:
    """
    Return what logs one line about the event.
    """
    logger = file_logger(path, formatter)
    return lambda: logger.info("tool started", extra=FIELDS)


def by_structlog(path: Path) -> Callable[[], object]:
    """
    Return the same by structlog, set up as its page on performance says.
    """
    logger = structlog.wrap_logger(
        structlog.BytesLogger(path.open("ab")),
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(serializer=orjson.dumps),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
    ).bind()
    return lambda: logger.info("tool started", **FIELDS)


def by_loguru(path: Path) -> Callable[[], object]:
    """
    Return the same by loguru, which serialises by itself.
    """
    loguru.logger.remove()
    loguru.logger.add(path, format="{message}", serialize=True, catch=False)
    return lambda: loguru.logger.bind(**FIELDS).info("tool started")


def by_hand(path: Path) -> Callable[[], object]:
    """
    Return what encodes the fields and writes the line.
    """
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    return lambda: os.write(fd, orjson.dumps(FIELDS) + b"\n")


def by_harken(bus: Bus, calls: int) -> Sample:
    """
    Return what measures publishing the event on *bus*.
    """
    return calling(lambda: bus.publish(READ), calls, after=lambda: bus.flush(60))


def main() -> int:
    results = begin(__doc__, __file__, rounds=21, quick=3)
    calls = results.scaled(1000)
    durabilities: tuple[Literal["process", "async", "group"], ...] = ("process", "async", "group")
    with tempfile.TemporaryDirectory(prefix="harken-benchmark-") as name:
        folder = Path(name)
        samples: dict[str, Sample] = {
            YARDSTICK: calling(by_logging(folder / "json.log", JsonFormatter(FORMAT)), calls),
            "python-json-logger with orjson": calling(
                by_logging(folder / "orjson.log", OrjsonFormatter(FORMAT)), calls
            ),
            "structlog": calling(by_structlog(folder / "structlog.log"), calls),
            "loguru": calling(by_loguru(folder / "loguru.log"), calls),
            "orjson + os.write": calling(by_hand(folder / "hand.log"), calls),
        }
        for redaction in (False, True):
            own = folder / f"by-hand-{redaction}"
            own.mkdir()
            title = f"by hand{', redacted' if redaction else ''}"
            samples[title] = calling(
                auditing(own / "audit.jsonl", READ, redaction=redaction), calls
            )
        buses: list[Bus] = []
        for durability in durabilities:
            sync = durability == "group"
            for redaction in (False, True):
                title = f"harken {durability}{', redacted' if redaction else ''}"
                bus = Bus(redaction=redaction)
                path = folder / f"{durability}-{redaction}.jsonl"
                bus.attach(AuditLog(path, durability=durability))
                buses.append(bus)
                samples[title] = by_harken(bus, max(calls // 20, 5) if sync else calls)
        found = interleaved(samples, results.rounds)
        loguru.logger.remove()
        for bus in buses:
            bus.close()
    for title, values in found.items():
        if title.startswith(("harken", "by hand")):
            bars = BARS.get(title, {})
            results.compare(f"{title} / {YARDSTICK}", values, found[YARDSTICK], **bars)
    for title in ("structlog", "loguru", "orjson + os.write"):
        results.compare(
            f"harken process, redacted / {title}", found["harken process, redacted"], found[title]
        )
    for title, values in found.items():
        results.add(title, [value * 1e6 for value in values], "us")
    results.save()
    return 0


if __name__ == "__main__":
    sys.exit(main())
