"""
How fast eight processes append to one audit file, together, against one process alone.

Every process publishes to a bus of its own with an `AuditLog` on the same path; all their records
form one chain, which is verified. The ratio is of records per second in total.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from measure import begin, interleaved

from harken.trail import verify

PROCESSES = 8
WRITER = """
import sys, time
from harken import Bus, Event
from harken.sinks.audit import AuditLog

class Noted(Event, name="benchmark.noted", audit=True, action="note", resource="note:{number}"):
    number: int
    text: str = ""

bus = Bus()
bus.attach(AuditLog(sys.argv[1], lock_wait=30))
text = "a word and another " * 20
bus.publish(Noted(number=-1))
print("ready", flush=True)
sys.stdin.readline()
for number in range(int(sys.argv[2])):
    bus.publish(Noted(number=number, text=text))
print(time.perf_counter(), flush=True)
bus.close()
"""


def rate(folder: Path, processes: int, records: int) -> float:
    """
    Return records per second of *processes*, each of which writes *records* to one new log.
    """
    with tempfile.TemporaryDirectory(dir=folder) as name:
        path = Path(name, "audit.jsonl")
        running = [
            subprocess.Popen(
                [sys.executable, "-c", WRITER, str(path), str(records)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(processes)
        ]
        for process in running:
            assert process.stdout is not None
            process.stdout.readline()
        begun = time.perf_counter()
        for process in running:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        # perf_counter() is the system's monotonic clock, the same in every process.
        ended = [float(process.stdout.readline()) for process in running if process.stdout]
        for process in running:
            process.communicate()
        lines = path.read_bytes().count(b'"benchmark.noted"')
        report = verify(path, chain_only=True)
        if lines != processes * (records + 1) or report.exit_code:
            raise RuntimeError(f"{lines} records of {processes * (records + 1)} are in the log")
    return processes * records / (max(ended) - begun)


def main() -> int:
    results = begin(__doc__, __file__, rounds=5)
    records = results.scaled(5000)
    with tempfile.TemporaryDirectory(prefix="harken-benchmark-") as name:
        found = interleaved(
            {
                "one": partial(rate, Path(name), 1, records),
                "all": partial(rate, Path(name), PROCESSES, records),
            },
            results.rounds,
        )
    results.compare(
        f"{PROCESSES} processes / 1 process",
        found["all"],
        found["one"],
        bar=0.5,
        stretch=0.8,
        at_least=True,
    )
    results.add("1 process", found["one"], "records/s")
    results.add(f"{PROCESSES} processes in total", found["all"], "records/s")
    results.save()
    return 0


if __name__ == "__main__":
    sys.exit(main())
