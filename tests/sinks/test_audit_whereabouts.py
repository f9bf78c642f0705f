"""
Where the audit log finds its file: what is done to the path, the file and the folders around it.
"""

from __future__ import annotations

import os
import resource
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from harken import Bus, Event
from harken.record import FIRST, check_line, parse
from harken.sinks.audit import AuditLog
from harken.sinks.audit._whereabouts import Whereabouts
from harken.trail import verify

TEN_MS = 10_000_000


class Chimed(Event, name="audit_whereabouts.chimed", audit=True):
    """
    A clock chimed.
    """

    number: int


def settle() -> None:
    """
    Wait until the last change of every folder is old enough to tell it from the next one.
    """
    time.sleep(0.03)


def chimes(*paths: Path) -> list[list[int]]:
    """
    Return the numbers in each of these files, oldest first, after checking the chain.
    """
    after = FIRST
    found: list[list[int]] = []
    for path in paths:
        found.append([])
        for line in path.read_bytes().splitlines(True):
            after = check_line(line, after)
            found[-1] += [n for n in [parse(line)["metadata"].get("number")] if n is not None]
    return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "above" / "logs" / "audit.jsonl"


@pytest.fixture
def publish(path: Path) -> Iterator[Callable[[int], object]]:
    """
    A function that publishes an event with a number, to a log in a folder that is old.
    """
    log = AuditLog(path)
    bus = Bus()
    bus.attach(log)
    settle()
    yield lambda number: bus.publish(Chimed(number=number))
    bus.close()


def renamed(path: Path) -> Path:
    return path.rename(f"{path}.1")


def moved_to_another_folder(path: Path) -> Path:
    return path.rename(path.parents[1] / "audit.jsonl.1")


def replaced(path: Path) -> Path:
    archive = renamed(path)
    new = path.with_suffix(".new")
    new.touch()
    new.rename(path)
    return archive


def copied(path: Path) -> Path:
    copy = path.with_name("copy")
    copy.write_bytes(path.read_bytes())
    return copy.rename(path)


def linked_and_deleted(path: Path) -> Path:
    archive = Path(f"{path}.1")
    archive.hardlink_to(path)
    path.unlink()
    return archive


def folder_renamed(path: Path) -> Path:
    return path.parent.rename(path.parents[1] / "logs.1") / path.name


class TestAuditLog:
    @pytest.mark.parametrize(
        "change",
        [renamed, moved_to_another_folder, replaced, linked_and_deleted, folder_renamed],
    )
    def test_follows_within_one_record(
        self, path: Path, publish: Callable[[int], object], change: Callable[[Path], Path]
    ) -> None:
        """
        The first record after a change stands in the file that is at the path then, however
        quickly it follows the one before.
        """
        publish(0)
        publish(1)
        archive = change(path)
        publish(2)

        assert [[0, 1], [2]] == chimes(archive, path)

    def test_files_that_come_and_go(self, path: Path, publish: Callable[[int], object]) -> None:
        """
        Other changes of the folder, before and after that, make no difference.
        """
        archives = []
        for number in range(20):
            publish(2 * number)
            (path.parent / f"other{number}").touch()
            publish(2 * number + 1)
            if number % 2:
                (path.parent / f"other{number}").unlink()
            archives.append(path.rename(f"{path}.{number:02}"))
            if number % 3:
                settle()
        publish(40)

        assert [*([2 * n, 2 * n + 1] for n in range(20)), [40]] == chimes(*archives, path)

    def test_truncated(self, path: Path, publish: Callable[[int], object]) -> None:
        """
        A file that was emptied between two records is noticed by the next one.
        """
        publish(0)
        publish(1)
        os.truncate(path, 0)
        publish(2)

        first = parse(path.read_bytes().splitlines(True)[0])
        assert ("audit.recover", "shrunk") == (first["event_type"], first["metadata"]["reason"])

    def test_another_writer(self, path: Path, publish: Callable[[int], object]) -> None:
        """
        Writers that take turns continue each other's records.
        """
        bus = Bus()
        bus.attach(AuditLog(path))
        settle()
        for number in range(20):
            if number % 2:
                publish(number)
            else:
                bus.publish(Chimed(number=number))
        bus.close()

        assert [list(range(20))] == chimes(path)


CUSTOMERS = b"row 1\nrow 2, being written"


class TestRotation:
    @pytest.mark.parametrize("disturb", [copied, renamed, replaced])
    def test_disturbed_when_the_archive_has_its_name(
        self, path: Path, monkeypatch: pytest.MonkeyPatch, disturb: Callable[[Path], Path]
    ) -> None:
        """
        What is an archive by then is not written to any more: neither a file that takes its place
        nor its absence splits the chain.
        """
        log = AuditLog(path, max_bytes=3_000)
        bus = Bus()
        bus.attach(log)
        link = os.link

        def link_once(*args: Any, **options: Any) -> None:
            monkeypatch.setattr(os, "link", link)
            link(*args, **options)
            disturb(path)

        monkeypatch.setattr(os, "link", link_once)
        for number in range(30):
            bus.publish(Chimed(number=number))
        bus.close()

        lines = {line for file in path.parent.iterdir() for line in file.read_bytes().splitlines()}
        records = sorted((parse(line + b"\n") for line in lines), key=lambda record: record["seq"])
        numbers = [record["metadata"].get("number") for record in records]
        assert os.link is link
        assert list(range(30)) == [number for number in numbers if number is not None]
        assert list(range(1, len(records) + 1)) == [record["seq"] for record in records]
        assert "ok" == verify(path).chain.verdict


def descriptors(path: Path) -> list[int]:
    """
    Return the descriptors of this process that are open on the file or folder *path*.
    """
    found = []
    for fd in range(3, 200):
        try:
            if os.path.samestat(os.fstat(fd), path.stat()):
                found.append(fd)
        except OSError:
            continue
    return found


def another_file(folder: Path) -> int:
    fd = os.open(folder / "customers", os.O_RDWR | os.O_CREAT)
    os.write(fd, CUSTOMERS)
    return fd


def another_socket(folder: Path) -> int:
    here, there = socket.socketpair()
    there.close()
    return here.detach()


def another_log(folder: Path) -> int:
    # Opened as ours is, and just as large as ours may be.
    fd = os.open(folder / "customers", os.O_RDWR | os.O_CREAT | os.O_APPEND)
    os.write(fd, CUSTOMERS)
    return fd


class TestDescriptorClosedByOthers:
    """
    Code that closes descriptors which are not its own, as a daemon does when it begins.
    """

    @pytest.mark.parametrize("pause", [0, 0.06], ids=["at once", "later"])
    @pytest.mark.parametrize("durability", ["process", "group"])
    @pytest.mark.parametrize("reused", [another_file, another_socket, another_log, None])
    def test_number_that_is_somebody_elses(
        self,
        path: Path,
        tmp_path: Path,
        durability: Literal["process", "group"],
        reused: Callable[[Path], int] | None,
        pause: float,
    ) -> None:
        """
        What has the number now is neither written to, nor cut, locked or closed; and no record is
        lost.
        """
        log = AuditLog(path, durability=durability, on_failure="raise")
        bus = Bus()
        bus.attach(log)
        settle()
        bus.publish(Chimed(number=0))
        (fd,) = descriptors(path)
        os.close(fd)
        other = fd if reused is None else reused(tmp_path)
        time.sleep(pause)
        bus.publish(Chimed(number=1))
        bus.publish(Chimed(number=2))
        bus.close()

        assert (fd, [[0, 1, 2]], 0) == (other, chimes(path), log.lost + log.spilled)
        if reused is not None:
            os.fstat(fd)
            os.close(fd)
        if reused in {another_file, another_log}:
            assert CUSTOMERS == (tmp_path / "customers").read_bytes()

    @pytest.mark.parametrize("end", ["close", "fork"])
    def test_is_not_closed_at_the_end(self, path: Path, end: str) -> None:
        """
        A log that ends without another record closes nothing that is not its own.
        """
        log = AuditLog(path)
        (fd,) = descriptors(path)
        folders = descriptors(path.parent)
        for number in (fd, *folders):
            os.close(number)
        held = [os.open(os.devnull, os.O_RDONLY) for _ in (fd, *folders)]
        if end == "close":
            log.close()
        else:
            pid = os.fork()
            if not pid:
                os._exit(len(set(held) - set(descriptors(Path(os.devnull)))))
            assert 0 == os.waitpid(pid, 0)[1]

        assert {fd, *folders} == set(held) & set(descriptors(Path(os.devnull)))
        for number in held:
            os.close(number)
        log.close()

    def test_descriptor_of_the_folder(self, path: Path) -> None:
        """
        The number by which the folder is watched may be another folder's, too: a file that is
        moved is followed within one record all the same.
        """
        log = AuditLog(path)
        bus = Bus()
        bus.attach(log)
        settle()
        bus.publish(Chimed(number=0))
        (folder,) = descriptors(path.parent)
        os.close(folder)
        other = os.open("/", os.O_RDONLY)
        bus.publish(Chimed(number=1))
        archive = renamed(path)
        bus.publish(Chimed(number=2))
        bus.close()

        assert (folder, [[0, 1], [2]]) == (other, chimes(archive, path))
        os.close(other)


class TestWhereabouts:
    @pytest.fixture
    def whereabouts(self, path: Path) -> Iterator[Whereabouts]:
        """
        Those of a file with 5 bytes, in a folder that is old.
        """
        path.parent.mkdir(parents=True)
        path.write_bytes(b"12345")
        settle()
        fd = os.open(path, os.O_RDWR)
        found = Whereabouts(str(path))
        found.begin(fd, os.fstat(fd))
        yield found
        found.end()
        os.close(fd)

    def test_size(self, path: Path, whereabouts: Whereabouts) -> None:
        """
        The size is that of now, whether or not the path was looked at.
        """
        sizes = [whereabouts.size(5, 0), whereabouts.size(5, 1)]
        os.truncate(path, 7)

        assert [5, 5, 7, 7] == [*sizes, whereabouts.size(5, 2), whereabouts.size(7, 3)]

    def test_folder_further_up(self, path: Path, whereabouts: Whereabouts) -> None:
        """
        That a folder further up was moved is noticed within 10 ms, and no look is made before.
        """
        whereabouts.size(5, 0)
        path.parents[1].rename(path.parents[1].with_name("elsewhere"))

        assert (5, None) == (whereabouts.size(5, TEN_MS - 1), whereabouts.size(5, TEN_MS))

    def test_folder_that_has_just_changed(
        self, path: Path, whereabouts: Whereabouts, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        A folder that changed a moment ago is not relied on: its next change may look the same.
        """
        changed_ns = path.parent.stat().st_ctime_ns
        monkeypatch.setattr(time, "time_ns", lambda: changed_ns + TEN_MS)
        whereabouts.size(5, 0)
        path.parents[1].rename(path.parents[1].with_name("elsewhere"))

        assert whereabouts.size(5, 1) is None

    def test_closed_by_others(self, path: Path, whereabouts: Whereabouts) -> None:
        """
        Code that closes descriptors which are not its own does no harm.
        """
        lowest = os.dup(0)
        os.close(lowest)
        whereabouts.size(5, 0)
        os.close(lowest)
        size = whereabouts.size(5, 1)
        path.rename(f"{path}.1")

        assert (5, None) == (size, whereabouts.size(5, 2))

    def test_no_descriptor_left(self, path: Path, whereabouts: Whereabouts) -> None:
        """
        Where the folder cannot be opened, the path is looked at each time.
        """
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        lowest = os.dup(0)
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limits[1]))
        try:
            size = whereabouts.size(5, 0)
            path.rename(f"{path}.1")
            moved = whereabouts.size(5, 1)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)

        assert (5, None) == (size, moved)
