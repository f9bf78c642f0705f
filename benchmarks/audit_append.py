"""
What one audited event of about 1 KB costs its publisher, against one line of python-json-logger.

Prints, for each durability and with redaction on and off, the median over rounds of the ratio of
both costs; the rounds are interleaved, so that whatever the machine does meanwhile hits both.
That cost is the whole of `Bus.publish()`: with ``process``, the record is in the kernel when it
returns; with ``group``, on the disk; with ``async``, in a queue.
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pythonjsonlogger.json import JsonFormatter

from harken import JSON, Bus, Event
from harken.sinks.audit import AuditLog

ARGUMENTS: dict[str, JSON] = {
    "path": "infra/modules/network/main.tf",
    "query": "disk usage over 90 percent on the build hosts",
    "lines": list(range(20)),
    "text": "The quick brown fox looks at the state of every host, and writes it down. " * 10,
}


class FileRead(
    Event, name="benchmark.file_read", audit=True, action="read", resource="file:{path}"
):
    """
    A file was read.
    """

    path: str
    arguments: dict[str, JSON]


def seconds(call: Callable[[], object], calls: int) -> float:
    """
    Return the seconds that one of so many calls takes.
    """
    begun = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - begun) / calls


def json_logger(folder: Path) -> Callable[[], object]:
    """
    Return what logs one line about the event to a file, as an application would without harken.
    """
    logger = logging.getLogger("benchmark")
    handler = logging.FileHandler(folder / "app.log")
    handler.setFormatter(JsonFormatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.INFO)
    fields = {"tool_name": "read_file", "tool_call_id": "call-1", "arguments": ARGUMENTS}
    return lambda: logger.info("tool started", extra=fields)


class Sample:
    """
    A call that is measured, in rounds beside the line of the logger.
    """

    def __init__(self, name: str, call: Callable[[], object], calls: int) -> None:
        self.name = name
        self.call = call
        self.calls = calls
        self.ratios: list[float] = []


def publishing(folder: Path, name: str, *, redaction: bool, **options: Any) -> Sample:
    bus = Bus(redaction=redaction)
    bus.attach(AuditLog(folder / f"{name}.jsonl", **options))
    calls = 100 if options.get("durability") == "group" else 1000
    event = FileRead(path="infra/modules/network/main.tf", arguments=ARGUMENTS)
    return Sample(name, lambda: bus.publish(event), calls)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=21)
    options = parser.parse_args()
    print(f"{platform.python_implementation()} {platform.python_version()}, {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory(prefix="harken-benchmark-") as name:
        folder = Path(name)
        line = json_logger(folder)
        samples = [
            publishing(folder, "process, plain", redaction=False),
            publishing(folder, "process, redacted", redaction=True),
            publishing(folder, "async, plain", redaction=False, durability="async"),
            publishing(folder, "async, redacted", redaction=True, durability="async"),
            publishing(folder, "group, redacted", redaction=True, durability="group"),
        ]
        base: list[float] = []
        for _ in range(options.rounds):
            for sample in samples:
                one = seconds(line, sample.calls)
                base.append(one)
                sample.ratios.append(seconds(sample.call, sample.calls) / one)
        print(f"one line of python-json-logger: {statistics.median(base) * 1e6:.1f} us")
        for sample in samples:
            low, high = min(sample.ratios), max(sample.ratios)
            print(
                f"{sample.name:<20} {statistics.median(sample.ratios):6.2f}x "
                f"({low:.2f} to {high:.2f})"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
