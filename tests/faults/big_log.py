"""
A large log: how long a writer takes to open it, and what a verification costs.

Prints the seconds to open a small and the large log, the records per second of a verification,
and the memory it takes at most. Exits with 1 when a bar is missed: opening must not depend on
the size, 100 MB must do, and 80,000 records per second of processor time must be reached.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from harken import Bus
from harken.record import GENESIS, Draft, control
from harken.sinks.audit import AuditLog

MOST_MEMORY = 100.0
LEAST_RATE = 80_000
RECORD_BYTES = 1024
SLOWEST_OPEN = 20.0

VERIFY = """
import json, resource, sys, time
from harken.trail import verify
start, busy = time.perf_counter(), time.process_time()
report = verify(sys.argv[1], chain_only=True)
seconds, busy = time.perf_counter() - start, time.process_time() - busy
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({
    "seconds": seconds,
    "busy": busy,
    "peak_mb": peak / (1 << 20 if sys.platform == "darwin" else 1 << 10),
    "lines": report.lines,
    "exit_code": report.exit_code,
}))
"""


def draft(number: int) -> Draft:
    """
    Return a record of about 1 KB, as a tool call leaves one.
    """
    metadata = {
        "tool_call_id": f"call-{number:012d}",
        "tool_name": "shell.run",
        "arguments": {"command": f"pytest -q tests/test_{number % 97}.py", "timeout": 30.5},
        "result_size": number * 7919 % 100_000,
        "text": "The quick brown fox jumps over the lazy dog. " * 10,
        "duration_ms": number % 5000,
        "exit_code": None if number % 3 else 0,
    }
    return control(
        "tool.completed",
        metadata,
        event_id=f"01a1fd61-e210-7000-8000-{number:012x}",
        time_ns=1_795_000_000_000_000_000 + number * 1_000_000,
        resource="tool:shell.run",
    )


def write(path: Path, size: int) -> int:
    """
    Write a log of *size* bytes; return how many lines it has.
    """
    head, written, number = GENESIS, 0, 0
    with path.open("wb", buffering=1 << 20) as file:
        while written < size:
            number += 1
            one = draft(number)
            line, head = one.line(one.time_ns, number, "1f3a-9c2e11d0", number, head)
            written += file.write(line)
    path.chmod(0o600)
    return number


def seconds_to_open(path: Path) -> float:
    """
    Return how long a writer takes from its beginning to its first record.
    """
    start = time.perf_counter()
    bus = Bus()
    bus.attach(AuditLog(path))
    taken = time.perf_counter() - start
    bus.close()
    return taken


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=float, default=1.0, help="of the log, in GB")
    parser.add_argument("--folder", help="where to put it; by default a temporary one")
    options = parser.parse_args()
    with TemporaryDirectory(prefix="harken-big-", dir=options.folder) as folder:
        small, large = Path(folder, "small.jsonl"), Path(folder, "large.jsonl")
        write(small, 100 * RECORD_BYTES)
        start = time.perf_counter()
        lines = write(large, int(options.size * 1e9))
        bytes_each = large.stat().st_size / lines
        print(
            f"wrote {large.stat().st_size / 1e9:.2f} GB, {lines:,} lines of {bytes_each:,.0f} "
            f"bytes, in {time.perf_counter() - start:.0f} s",
            flush=True,
        )
        opened = {path: min(seconds_to_open(path) for _ in range(5)) for path in (small, large)}
        print(
            f"open: {opened[small] * 1000:.2f} ms with {small.stat().st_size / 1e3:,.0f} KB, "
            f"{opened[large] * 1000:.2f} ms with {large.stat().st_size / 1e9:.2f} GB",
            flush=True,
        )
        ran = subprocess.run(
            [sys.executable, "-c", VERIFY, str(large)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
            check=True,
        )
        found = json.loads(ran.stdout)
    rate = found["lines"] / found["busy"]
    print(
        f"verify: {found['lines'] / found['seconds']:,.0f} records/s, {rate:,.0f} per second of "
        f"processor time (bar {LEAST_RATE:,}), {found['peak_mb']:.0f} MB at most (bar "
        f"{MOST_MEMORY:.0f}), {found['seconds']:.1f} s, exit code {found['exit_code']}"
    )
    good = (
        found["exit_code"] == 0
        and found["peak_mb"] <= MOST_MEMORY
        and rate >= LEAST_RATE
        and opened[large] <= SLOWEST_OPEN * max(opened[small], 0.001)
    )
    print("all bars are met" if good else "a bar was missed")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
