"""
How fast an audit log is verified, and in how much memory.

The log is written by an `AuditLog`, about 1 KB a record; each verification is a process of its
own. `tests/faults/big_log.py` does the same with 1 GB.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from measure import begin
from naive import SCOPE

from harken import JSON, Bus, Event, scope
from harken.sinks.audit import AuditLog

RECORD_BYTES = 1024
PROGRAM = """
import json, resource, sys, time
from harken.trail import verify
begun, busy = time.perf_counter(), time.process_time()
report = verify(sys.argv[1], chain_only=True)
taken, busy = time.perf_counter() - begun, time.process_time() - busy
try:
    # What getrusage() tells begins with what the parent had when it started this process.
    status = open("/proc/self/status").read()
    peak = int(status.partition("VmHWM:")[2].split()[0]) / (1 << 10)
except OSError:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)
print(json.dumps({
    "seconds": taken,
    "busy": busy,
    "peak_mb": peak,
    "lines": report.lines,
    "exit_code": report.exit_code,
}))
"""


class FileRead(
    Event, name="benchmark.file_read", audit=True, action="read", resource="file:{number}"
):
    """
    A file was read.
    """

    number: int
    arguments: dict[str, JSON]


def write(path: Path, size: int) -> None:
    """
    Write an audit log of about *size* bytes.
    """
    bus = Bus(redaction=False)
    bus.attach(
        AuditLog(path, durability="async"), overflow="block", capacity=10_000, capacity_bytes=None
    )
    arguments: dict[str, JSON] = {
        "path": "infra/modules/network/main.tf",
        "text": "the quick brown fox looks at every host " * 9,
    }
    with scope(**SCOPE):
        for number in range(size // RECORD_BYTES):
            bus.publish(FileRead(number=number, arguments=arguments))
    if not bus.close(600):
        raise RuntimeError("the log is not complete")


def main() -> int:
    results = begin(__doc__, __file__, rounds=5, more={"size": (float, 50.0, "of the log, in MB")})
    rates: list[float] = []
    walls: list[float] = []
    peaks: list[float] = []
    with tempfile.TemporaryDirectory(prefix="harken-benchmark-") as name:
        path = Path(name, "audit.jsonl")
        write(path, int(results.options.size * 1e6) // (10 if results.quick else 1))
        for _ in range(results.rounds):
            done = subprocess.run(
                [sys.executable, "-c", PROGRAM, str(path)], stdout=subprocess.PIPE, check=True
            )
            found = json.loads(done.stdout)
            if found["exit_code"]:
                raise RuntimeError(f"the log does not verify: {found}")
            rates.append(found["lines"] / found["busy"])
            walls.append(found["lines"] / found["seconds"])
            peaks.append(found["peak_mb"])
    results.add(
        "records per second of processor time",
        rates,
        "records/s",
        bar=80_000,
        stretch=150_000,
        at_least=True,
    )
    results.add("records per second on the wall", walls, "records/s")
    results.add("memory at most", peaks, "MB", bar=100)
    results.save()
    return 0


if __name__ == "__main__":
    sys.exit(main())
