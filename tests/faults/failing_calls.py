"""
Let each system call on an audit log fail in turn, and look at what is left.

For each call and fault (an error, or a kill at that moment), its first, second, ... occurrence is
hit, in a run of a program that writes a sealed log with rotation. Prints how many runs there were
and how many logs were inconsistent, which must be 0: no acknowledged record may be missing, and
`harken verify` may find nothing tampered with. Needs strace.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from harken.record import parse
from harken.sinks.audit import AuditLog, create_key
from harken.trail import open_log

PROGRAM = """
import os, sys
from harken import Bus, Event
from harken.sinks.audit import AuditLog

class Tolled(Event, name="audit_faults.tolled", audit=True):
    number: int

bus = Bus()
log = AuditLog("audit.jsonl", key_path="audit.key", max_bytes=3000, lock_wait=0.05)
bus.attach(log)
for number in range(8):
    failed = log.lost + log.spilled
    bus.publish(Tolled(number=number))
    if log.lost + log.spilled == failed:
        os.write(1, b"%d\\n" % number)
    log.checkpoint()
bus.close()
"""

CALLS = (
    "write",
    "pwrite64",
    "pread64",
    "flock",
    "openat",
    "link,linkat",
    "rename,renameat,renameat2",
    "ftruncate",
    "fsync",
    "lstat,newfstatat",
    "close",
    "unlink,unlinkat",
)
FAULTS = ("error=EIO", "error=ENOSPC", "error=EACCES", "signal=KILL")
ATTEMPTS = 60


def run(folder: Path, call: str, fault: str, when: int) -> str:
    """
    Run the program with the fault; return ``missed`` when the call was never made so often,
    ``whole`` when the log is, and else what is wrong with it.
    """
    log, key = folder / "audit.jsonl", folder / "audit.key"
    (folder / "first.key").write_text(create_key(key) + "\n")
    done = subprocess.run(
        [
            *("strace", "-f", "-o", str(folder / "calls")),
            *("-P", str(log), "-P", f"{log}.new", "-P", str(key)),
            *("-e", f"trace={call}", "-e", f"inject={call}:{fault}:when={when}"),
            *(sys.executable, "-c", PROGRAM),
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    if "ptrace" in done.stderr:
        raise SystemExit("this machine does not allow tracing")
    calls = (folder / "calls").read_text()
    if "(INJECTED)" not in calls and "killed by SIGKILL" not in calls:
        return "missed"
    acknowledged = {int(line) for line in done.stdout.split()}
    if log.exists() or acknowledged:
        AuditLog(log, key_path=key).close()
        with open_log(log) as files:
            lines = [line for segment in files.segments for line in segment.lines()]
        found = Counter(
            record["metadata"]["number"]
            for record in map(parse, lines)
            if record["event_type"] == "audit_faults.tolled"
        )
        if not acknowledged <= set(found):
            return f"missing {sorted(acknowledged - set(found))}"
        if any(count > 1 for count in found.values()):
            return f"doubled {found}"
    verified = subprocess.run(
        [sys.executable, "-m", "harken", "verify", str(log), "--key", "first.key"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    if log.exists() and verified.returncode not in {0, 3}:
        return f"verify exits with {verified.returncode}: {verified.stdout}{verified.stderr}"
    return "whole"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=240, help="How many at most.")
    options = parser.parse_args()
    began = time.monotonic()
    results: Counter[str] = Counter()
    exhausted: set[tuple[str, str]] = set()
    # The first occurrence of every call, then the second, and so on, while there are more.
    for when in range(1, ATTEMPTS):
        for call in CALLS:
            for fault in FAULTS:
                if (call, fault) in exhausted or results.total() >= options.runs:
                    continue
                with tempfile.TemporaryDirectory(prefix="harken-faults-") as name:
                    result = run(Path(name), call, fault, when)
                if result == "missed":
                    exhausted.add((call, fault))
                    continue
                if result != "whole":
                    print(f"{call} {fault} {when}: {re.sub(r'/tmp/[^/]*/', '', result)}")
                results["whole" if result == "whole" else "inconsistent"] += 1
    print(
        f"{results.total()} runs with one failing system call each: "
        f"{results['inconsistent']} inconsistent logs; {time.monotonic() - began:.0f} s"
    )
    return 1 if results["inconsistent"] else 0


if __name__ == "__main__":
    sys.exit(main())
