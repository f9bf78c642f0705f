"""
Let processes append to one sealed audit log, and compare their rate with that of one alone.

Prints records per second of one process and of all together, in the same run, interleaved, and
whether the log holds every record once and in one order. Exits with 1 unless it does, and the
rate of all is at least half of that of one.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from harken.record import FIRST, check_line, parse
from harken.sinks.audit import create_key
from harken.trail import open_log

WRITER = """
import sys, time
from harken import Bus, Event
from harken.sinks.audit import AuditLog

class Tolled(Event, name="audit_faults.tolled", audit=True):
    number: int
    text: str = ""

bus = Bus()
bus.attach(AuditLog(sys.argv[1], key_path=sys.argv[2], lock_wait=30))
text = "a word and another " * 20
bus.publish(Tolled(number=-1))
print("ready", flush=True)
sys.stdin.readline()
first = int(sys.argv[3])
for number in range(first, first + int(sys.argv[4])):
    bus.publish(Tolled(number=number, text=text))
print(time.perf_counter(), flush=True)
bus.close()
"""


def rate(folder: Path, processes: int, records: int) -> float:
    """
    Return records per second of *processes*, each of which writes *records* to a new log.
    """
    folder.mkdir()
    (folder / "first.key").write_text(create_key(folder / "audit.key") + "\n")
    running = [
        subprocess.Popen(
            [
                *(sys.executable, "-c", WRITER, str(folder / "audit.jsonl")),
                *(str(folder / "audit.key"), str(i * records), str(records)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for i in range(processes)
    ]
    for process in running:
        assert process.stdout is not None
        process.stdout.readline()
    began = time.perf_counter()
    for process in running:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    # perf_counter() is the system's monotonic clock, the same in every process.
    ended = [float(process.stdout.readline()) for process in running if process.stdout]
    for process in running:
        process.communicate()
        if process.returncode:
            raise RuntimeError(f"a writer ended with {process.returncode}")
    return processes * records / (max(ended) - began)


def check(folder: Path, expected: int) -> str:
    """
    Return what is wrong with the log, or nothing.
    """
    found: Counter[int] = Counter()
    after = FIRST
    with open_log(folder / "audit.jsonl") as files:
        for segment in files.segments:
            for line in segment.lines():
                after = check_line(line, after)
                record = parse(line)
                if record["event_type"] == "audit_faults.tolled":
                    found[record["metadata"]["number"]] += 1
    del found[-1]
    if found.keys() != set(range(expected)) or set(found.values()) != {1}:
        return f"{len(found)} of {expected} records, at most {max(found.values())} times"
    verified = subprocess.run(
        [
            *(sys.executable, "-m", "harken", "verify", str(folder / "audit.jsonl")),
            *("--key", str(folder / "first.key"), "--state", str(folder / "audit.key")),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    return "" if verified.returncode == 0 else verified.stdout + verified.stderr


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--records", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    alone, together = [], []
    wrong = ""
    with tempfile.TemporaryDirectory(prefix="harken-faults-") as name:
        for i in range(options.rounds):
            alone.append(rate(Path(name, f"one-{i}"), 1, options.records))
            folder = Path(name, f"all-{i}")
            together.append(rate(folder, options.processes, options.records))
            wrong = wrong or check(folder, options.processes * options.records)
    one, all_ = statistics.median(alone), statistics.median(together)
    print(
        f"1 process {one:,.0f} records/s, {options.processes} processes {all_:,.0f} records/s: "
        f"{all_ / one:.2f}x (bar 0.5x); "
        f"{wrong or f'{options.processes * options.records} records, each once, in one order'}"
    )
    return 0 if not wrong and all_ >= one / 2 else 1


if __name__ == "__main__":
    sys.exit(main())
