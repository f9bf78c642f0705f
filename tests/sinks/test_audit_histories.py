"""
What may happen to an audit log, in any order, when every few lines have a checkpoint.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from harken import Bus, Event
from harken.sinks.audit import AuditLog, _file, _seal, create_key
from harken.testing import capture
from harken.trail import _chain, read_key, read_state, verify

# Histories go well or not on every Python alike.
pytestmark = pytest.mark.once

ACTIONS = ("write", "write", "write", "write", "checkpoint", "flush", "close")
EVENTS = ("rename", "copytruncate", "clock", "foreign", "delete", "empty")
TROUBLES = ("", "", "", "key held", "log held", "disk full", "renamed meanwhile")

STEPS = st.lists(
    st.tuples(
        st.sampled_from((*ACTIONS, *EVENTS)),
        st.sampled_from(TROUBLES),
        st.integers(0, 2),
        st.integers(1, 9),
    ),
    max_size=30,
)


class Pealed(Event, name="audit_histories.pealed", audit=True):
    """
    A bell was pealed.
    """

    number: int


class History:
    """
    A log, of three writers that come and go.
    """

    def __init__(self, folder: Path, *, with_key: bool, max_bytes: int | None) -> None:
        self.path = folder / "log" / "audit.jsonl"
        self.key = folder / "agent.key" if with_key else None
        self.max_bytes = max_bytes
        self.writers: list[AuditLog | None] = [None] * 3
        self.count = self.lost = self.moved = self.ahead_ns = 0
        self.is_destroyed = False

    def writer(self, which: int) -> AuditLog:
        log = self.writers[which]
        if log is None:
            log = self.writers[which] = AuditLog(
                self.path,
                key_path=self.key,
                max_bytes=self.max_bytes if which else None,
                checkpoint_seconds=1000,
                lock_wait=0.002,
                clock=lambda: time.time_ns() + self.ahead_ns,
            )
        return log

    def step(self, name: str, trouble: str, which: int, count: int) -> None:
        log = self.writer(which)
        if name in {"write", "checkpoint", "flush"} or (name == "close" and trouble == "key held"):
            with self.in_trouble(trouble, count):
                self.operate(log, name, which, count)
        elif name == "close":
            self.operate(log, name, which, count)
        elif name == "clock":
            self.ahead_ns += (count - 5) * 10**9
        elif self.path.exists():
            self.befall(name)
            # Who finds a foreign line in a file says so; there must be somebody.
            self.operate(log, "write", which, count)

    def operate(self, log: AuditLog, name: str, which: int, count: int) -> None:
        if name == "write":
            bus = Bus()
            with capture(bus) as heard:
                for number in range(self.count, self.count + count):
                    bus.publish(Pealed(number=number))
            self.count += count
            log.write(heard.envelopes)
        elif name == "close":
            self.writers[which] = None
            log.close()
            self.lost += log.lost
        else:
            getattr(log, name)()

    def befall(self, name: str) -> None:
        self.moved += 1
        elsewhere = Path(f"{self.path}.{self.moved}")
        if name == "rename":
            self.path.rename(elsewhere)
        elif name == "foreign":
            with self.path.open("ab") as file:
                file.write(b"logrotate was here\n")
        elif name == "copytruncate":
            shutil.copyfile(self.path, elsewhere)
            os.truncate(self.path, 0)
        else:
            self.is_destroyed = True
            self.path.unlink() if name == "delete" else os.truncate(self.path, 0)

    @contextmanager
    def in_trouble(self, trouble: str, at: int) -> Iterator[None]:
        held = {"key held": self.key, "log held": self.path}.get(trouble)
        if held is not None and held.exists():
            with held.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                yield
            return
        calls, write, fstat = iter(range(1, 10**9)), os.write, os.fstat

        def full(fd: int, data: bytes) -> int:
            number = next(calls)
            if number > at // 3 + 1:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return write(fd, data if number <= at // 3 else data[: at * 100])

        def moved(fd: int) -> Any:
            if next(calls) == at and self.path.exists():
                self.befall("rename")
            return fstat(fd)

        with pytest.MonkeyPatch.context() as patch:
            if trouble == "disk full":
                patch.setattr(os, "write", full)
            elif trouble == "renamed meanwhile":
                patch.setattr(os, "fstat", moved)
            yield

    def end(self) -> None:
        """
        Let all writers end, and one more, who can say whatever was not said yet.
        """
        for which in (0, 1, 2, 0):
            self.operate(self.writer(which), "close", which, 0)

    def numbers(self) -> list[int]:
        """
        Return the numbers of the records that are in the log.
        """
        # One that is renamed while it is archived has two names.
        files = {path.stat().st_ino: path for path in self.path.parent.iterdir()}
        data = b"".join(path.read_bytes() for path in files.values())
        return sorted(map(int, re.findall(rb'"metadata":\{"number":(\d+)\}', data)))


@settings(max_examples=50)
@given(STEPS, st.booleans(), st.sampled_from([3, 4, 5, 7]), st.sampled_from([None, 1, 3000]))
def test_is_judged_for_what_it_was(
    steps: list[tuple[str, str, int, int]], with_key: bool, every: int, max_bytes: int | None
) -> None:
    """
    Whatever happened to a log whose writers have all ended: it is whole, and verified, if nothing
    was destroyed and no record lost; otherwise what is missing is said, and never is a log
    called tampered that nobody tampered with.
    """
    with TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        for module in (_file, _chain):
            patch.setattr(module, "CHECKPOINT_EVERY", every)
        patch.setattr(_file, "_TRUSTED_NS", 0)
        patch.setattr(_file, "_ROTATION_PAUSE", 0.0)
        patch.setattr(_seal, "PATIENCE", 0.002)
        history = History(Path(name), with_key=with_key, max_bytes=max_bytes)
        evidence: dict[str, Any] = {}
        if history.key is not None:
            first = Path(name, "first.key")
            first.write_text(create_key(history.key))
            evidence["keys"] = [read_key(first)]
        for step in steps:
            history.step(*step)
        history.end()
        if history.key is not None:
            evidence["states"] = [read_state(history.key)]

        report = verify(history.path, **evidence)

        numbers = history.numbers()
        missing = history.count - len(numbers)
        is_whole = with_key and not history.is_destroyed and not missing
        may_be_whole = with_key and not missing
        assert report.exit_code in ({0} if is_whole else {0, 3} if may_be_whole else {3}), report
        assert [] == [one for one in report.findings if one.weight not in {"note", "incomplete"}]
        assert sorted(set(numbers)) == numbers
        assert history.is_destroyed or history.lost == missing
