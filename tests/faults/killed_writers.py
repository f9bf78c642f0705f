"""
Kill writers of one audit log at random moments, and count what is missing afterwards.

Prints how many writers were killed, how many records they had been told were written, how many of
those are missing or unreadable, and how many lines are bad. Exits with 1 unless both are 0, the
log verifies with its key, and every kill was one.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

from harken.record import RecordError, check_line, parse
from harken.sinks.audit import AuditLog, create_key
from harken.trail import open_log

WRITER = """
import os, random, sys, time
from harken import Bus, Event
from harken.sinks.audit import AuditLog

class Tolled(Event, name="audit_faults.tolled", audit=True):
    number: int
    text: str = ""

bus = Bus()
bus.attach(AuditLog(
    "audit.jsonl", key_path="audit.key", max_bytes=5_000_000, checkpoint_seconds=0.02
))
for number in range(int(sys.argv[1]), 10**12):
    bus.publish(Tolled(number=number, text="x" * random.choice((100, 800, 5_000, 60_000))))
    os.write(1, b"%d\\n" % number)
    time.sleep(0.0005)
"""


class Writer:
    """
    A process that writes until it is killed, and the numbers that it was told were written.
    """

    def __init__(self, folder: Path, first: int) -> None:
        self.acknowledged: list[bytes] = []
        self.process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(first)], cwd=folder, stdout=subprocess.PIPE
        )
        assert self.process.stdout is not None
        self.acknowledged.append(self.process.stdout.readline())
        # The pipe must not fill up, or no process is killed in the middle of a record.
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.acknowledged += self.process.stdout.read().splitlines()

    def kill(self) -> bool:
        """
        Kill it; return whether that was what ended it.
        """
        self.process.kill()
        killed = self.process.wait() == -signal.SIGKILL
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()
        return killed


def read(folder: Path) -> tuple[Counter[int], int]:
    """
    Return how often each number is in the log, and how many of its lines are bad.
    """
    found: Counter[int] = Counter()
    bad = 0
    with open_log(folder / "audit.jsonl") as files:
        for segment in files.segments:
            for line in segment.lines():
                try:
                    check_line(line)
                except RecordError:
                    bad += 1
                    continue
                record = parse(line)
                if record["event_type"] == "audit_faults.tolled":
                    found[record["metadata"]["number"]] += 1
    return found, bad


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=150)
    parser.add_argument("--writers", type=int, default=3)
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="harken-faults-") as name:
        folder = Path(name)
        first_key = create_key(folder / "audit.key")
        (folder / "first.key").write_text(f"{first_key}\n")
        writers = [Writer(folder, i * 10**9) for i in range(options.writers)]
        acknowledged: set[int] = set()
        killed = 0
        for i in range(options.kills):
            time.sleep(random.random() * 0.05)
            victim = writers.pop(0)
            killed += victim.kill()
            acknowledged.update(int(line) for line in victim.acknowledged if line.strip())
            writers.append(Writer(folder, (options.writers + i) * 10**9))
        for writer in writers:
            writer.kill()
            acknowledged.update(int(line) for line in writer.acknowledged if line.strip())
        AuditLog(folder / "audit.jsonl", key_path=folder / "audit.key").close()
        found, bad = read(folder)
        size = sum(file.stat().st_size for file in folder.glob("audit.jsonl*"))
        verified = subprocess.run(
            [
                *(sys.executable, "-m", "harken", "verify", "audit.jsonl"),
                *("--key", "first.key", "--state", "audit.key"),
            ],
            cwd=folder,
            env={**os.environ, "COLUMNS": "120"},
            capture_output=True,
            text=True,
            check=False,
        )
    missing = len(acknowledged - set(found))
    doubled = sum(count > 1 for count in found.values())
    print(
        f"{killed} of {options.kills} writers killed, {options.writers} at a time; "
        f"{len(acknowledged)} records acknowledged, {size / 1e6:.0f} MB; "
        f"missing or unreadable {missing}, doubled {doubled}, bad lines {bad}; "
        f"verify exits with {verified.returncode}; {time.monotonic() - began:.0f} s"
    )
    # 3: consistent, but writers that were killed leave no clean end.
    good = (missing, doubled, bad) == (0, 0, 0) and verified.returncode in {0, 3}
    if not good:
        print(verified.stdout, verified.stderr, sep="\n")
    return 0 if good and killed == options.kills else 1


if __name__ == "__main__":
    sys.exit(main())
