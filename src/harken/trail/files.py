"""
The files of an audit log: which ones there are, in which order, and their lines.
"""

from __future__ import annotations

import gzip
import lzma
import os
import re
import stat
import sys
import time
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from hashlib import sha256
from io import BufferedReader, RawIOBase
from typing import TYPE_CHECKING

import msgspec

from harken.errors import HarkenError
from harken.record import GENESIS, MAX_LINE, Link, RecordError, link_of, parse
from harken.trail._line import START

if sys.platform != "win32":
    import fcntl

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

Progress = Callable[[int], None]
"""Called with how many stored bytes were read since the last call."""

Unreadable = Callable[[str, str], None]
"""Called with the path of a file that cannot be read, and with what is wrong."""

LONGEST = MAX_LINE + 1
"""Bytes of a line that are read at once; one of a log is shorter."""

# What rotation, logrotate and people with a date in mind put behind the name of a log.
_ARCHIVE = re.compile(r"[.-]\d[\dTZ_:.-]*(?P<packed>\.gz|\.xz|\.zst)?")

# The names that harken itself gives: the time, and the number of the last line.
_OWN_ARCHIVE = re.compile(r"\.\d{8}T\d{6}Z-(\d{10,18})(?:\.\d+)?(?:\.gz|\.xz|\.zst)?")

_SPILL = ".spill-"

_BUFFER = 1 << 20

# How much of a file is searched for its first sealed line.
_SEARCHED = 4 * MAX_LINE

# How often the folder is looked at again because a new file was begun in the meantime.
_ATTEMPTS = 10

# Seconds to wait for a writer that holds the lock: it may have been stopped.
_PATIENCE = 2.0


class TrailError(HarkenError):
    """
    A log cannot be read, or what it is compared with cannot; the message says what to do.
    """


class MissingLogError(TrailError):
    """
    There is no log where one was looked for.
    """


class ForbiddenLogError(TrailError):
    """
    This user may not read the log.
    """


class DamagedFileError(TrailError):
    """
    A compressed file is not what was compressed.
    """


class Segment(msgspec.Struct, frozen=True):
    """
    One file of a log.

    Attributes:
        path: As it is shown to people.

        size: Bytes on the disk that belong to the log; what was appended later does not.

        seq: The number of its first line; 0 when it has no record.

        first: The first sealed line's link; None when nothing in it is sealed.

        begins_log: Whether its first line is the first one of a log.

        live: Whether it is the file that is appended to.

        inode: Device and number.

        continues: The name of the file before it, when its first line says so.

        resource: What its first sealed line calls the log, when that is a control record.

        damage: Why it cannot be decompressed; None when it can, as far as was read.

        fd: Open while it is the live one, which may be renamed at any time.
    """

    path: str
    size: int
    seq: int
    first: Link | None
    begins_log: bool
    live: bool
    inode: tuple[int, int]
    continues: str | None = None
    resource: str | None = None
    damage: str | None = None
    fd: int | None = None

    @property
    def last_seq_by_name(self) -> int | None:
        """
        The number of the last line, as the name of an archive has it; None for other names.
        """
        match = _OWN_ARCHIVE.search(self.path)
        return None if match is None or match.end() != len(self.path) else int(match[1])

    @property
    def packed(self) -> str | None:
        """
        The suffix of a compressed file.
        """
        match = re.search(r"\.(?:gz|xz|zst)$", self.path)
        return None if match is None else match[0]

    def lines(self, progress: Progress | None = None) -> Iterator[bytes]:
        """
        Yield the lines, with their line feeds. Memory does not depend on how long they are.

        What has more than `MAX_LINE` bytes comes in pieces: only the last one has a line feed.

        Raises:
            DamagedFileError: The file cannot be decompressed any further.

            TrailError: It is not the file that was found, or a library is missing.
        """
        with self.opened() as fd, _reader(fd, self, progress) as file:
            yield from iter(partial(file.readline, LONGEST), b"")

    @contextmanager
    def unpacked(self, fd: int) -> Generator[BufferedReader]:
        """
        Yield what is in the file that *fd* is of, decompressed if it is compressed.

        Raises:
            DamagedFileError: While it is read: it cannot be decompressed any further.
        """
        with _reader(fd, self, None) as file:
            yield file

    @contextmanager
    def opened(self) -> Generator[int]:
        """
        Yield a descriptor for reading.

        Raises:
            TrailError: The file is not the one that was found.
        """
        if self.fd is not None:
            yield self.fd
            return
        try:
            fd = _open(self.path)
        except FileNotFoundError as error:
            # An archive that was compressed, or spilled records that are in the log by now.
            raise TrailError(
                f"{self.path} was removed while the log was read; run this again"
            ) from error
        try:
            if _inode(os.fstat(fd)) != self.inode:
                raise TrailError(f"{self.path} was renamed while the log was read; run this again")
            yield fd
        finally:
            os.close(fd)


class LogFiles(msgspec.Struct, frozen=True):
    """
    The files of one log.

    Attributes:
        path: Where it is appended to.

        segments: From the oldest to the newest.

        copies: From a file that was left out to the one that it begins like.

        spills: Where its writers put what they could not append.

        live: The file at *path*; None when there is none.

        in_progress:
            Whether a writer held the lock all the time, so that the end of the live file may be
            half a line.
    """

    path: str
    segments: tuple[Segment, ...]
    copies: tuple[tuple[Segment, Segment], ...]
    spills: tuple[Segment, ...]
    live: Segment | None
    in_progress: bool

    @property
    def size(self) -> int:
        """
        Bytes of all segments.
        """
        return sum(segment.size for segment in self.segments)

    @property
    def is_foreign(self) -> bool:
        """
        Whether these files hold something else: there are lines, and none looks like a record.
        """
        return bool(self.segments) and not any(
            segment.seq or segment.damage for segment in self.segments
        )


@contextmanager
def open_log(
    path: str | os.PathLike[str], *, unreadable: Unreadable | None = None
) -> Generator[LogFiles]:
    """
    Find the files of the log at *path*, and keep the live one from going away.

    The others are found by their names: that of the log, and then a number or a date as rotation
    and logrotate put there, or what a later file names as the one that it continues. They are
    ordered by the number of their first line. This takes as long as there are many files, however
    large they are. Files of a log whose own records call it otherwise are left alone.

    The live file is locked only while its size is asked for; what is appended later is not read.

    Args:
        unreadable:
            Called with the path of each older file that cannot be read, and with what is wrong;
            the file is left out. By default that is an error.

    Raises:
        MissingLogError: There is no such log.

        ForbiddenLogError: This user may not read one of its files.

        TrailError: One of its files cannot be read for another reason.
    """
    name = os.fsdecode(path)
    if os.path.islink(name):
        name = os.path.realpath(name)
    for _ in range(_ATTEMPTS):
        fd = _open_live(name)
        try:
            found = _find(name, fd, unreadable)
            if _is_at(fd, name):
                yield found
                return
        finally:
            if fd is not None:
                os.close(fd)
    raise TrailError(f"{name} is renamed again and again; run this later")


def _find(path: str, fd: int | None, unreadable: Unreadable | None) -> LogFiles:
    live, in_progress = None, False
    if fd is not None:
        size, in_progress = _locked_size(fd)
        live = _segment(path, fd, size, live=True)
    others, spills = _candidates(path, live, unreadable)
    found = [*others, *([] if live is None else [live])]
    if not found:
        raise MissingLogError(f"there is no audit log at {path}; give its path")
    for segment in found:
        if segment.packed and not segment.size and unreadable is not None:
            unreadable(segment.path, "it is empty, and no compressed file is")
    # Nothing was ever written to these.
    found = [segment for segment in found if segment.size]
    # A backup that is made just now may be longer than the log was a moment ago.
    grown = 0 if fd is None else os.fstat(fd).st_size
    kept, copies = _without_copies(found, grown)
    return LogFiles(path, tuple(_in_order(kept)), tuple(copies), tuple(spills), live, in_progress)


def _candidates(
    path: str, live: Segment | None, unreadable: Unreadable | None
) -> tuple[list[Segment], list[Segment]]:
    folder, base = os.path.split(path)
    names = _names(folder or ".", path)
    beside = {name for name in names if name.startswith((f"{base}.", f"{base}-"))}
    spills = [
        segment
        for name in sorted(beside)
        if name.startswith(f"{base}{_SPILL}")
        and (segment := _segment_at(os.path.join(folder, name), unreadable)) is not None
    ]
    found: dict[str, Segment] = {}
    known = {name for name in beside if _ARCHIVE.fullmatch(name, len(base))}
    if live is not None and live.continues in beside:
        known.add(live.continues)
    looked: set[str] = set()
    while wanted := known - looked:
        for name in sorted(wanted):
            looked.add(name)
            segment = _segment_at(os.path.join(folder, name), unreadable)
            if segment is None or (live is not None and segment.inode == live.inode):
                continue
            found[name] = segment
            if segment.continues in beside:
                known.add(segment.continues)
    own = f"audit_log:{base}" if live is None else live.resource
    return [
        segment
        for segment in found.values()
        if own is None or segment.resource is None or segment.resource == own
    ], spills


def _names(folder: str, path: str) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError as error:
        raise MissingLogError(f"there is no audit log at {path}; give its path") from error
    except PermissionError as error:
        raise ForbiddenLogError(
            f"{folder} cannot be read: {error.strerror}; run this as a user who may read it"
        ) from error


def _segment_at(path: str, unreadable: Unreadable | None) -> Segment | None:
    """
    Return the file at *path*; None when it is gone, or no regular file, or told as unreadable.
    """
    try:
        fd = _open(path)
    except FileNotFoundError:
        return None
    except TrailError as error:
        if unreadable is None:
            raise
        unreadable(path, str(error))
        return None
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            return None
        return _segment(path, fd, found.st_size, live=False)
    finally:
        os.close(fd)


def _segment(path: str, fd: int, size: int, *, live: bool) -> Segment:
    segment = Segment(
        path,
        size,
        0,
        None,
        begins_log=False,
        live=live,
        inode=_inode(os.fstat(fd)),
        fd=fd if live else None,
    )
    with _reader(fd, segment, None) as file:
        try:
            return _with_first(segment, file)
        except DamagedFileError as error:
            return msgspec.structs.replace(segment, damage=str(error))


def _with_first(segment: Segment, file: BufferedReader) -> Segment:
    at = 0
    seq = 0
    while at < _SEARCHED:
        line = file.readline(LONGEST)
        if not line:
            break
        at += len(line)
        start = START.match(line)
        if start is not None and not seq:
            seq = int(start[2])
        try:
            link = link_of(line)
        except RecordError:
            continue
        begins = at == len(line) and link.prev == GENESIS
        resource, continues = _told(line, link)
        return msgspec.structs.replace(
            segment,
            seq=link.seq,
            first=link,
            begins_log=begins,
            continues=continues if at == len(line) else None,
            resource=resource,
        )
    return msgspec.structs.replace(segment, seq=seq)


def _told(line: bytes, link: Link) -> tuple[str | None, str | None]:
    """
    Return what a control record calls its log, and the name of the file that it continues.
    """
    if not link.event_type.startswith("audit."):
        return None, None
    try:
        record = parse(line)
    except RecordError:
        return None, None
    resource, metadata = record.get("resource"), record.get("metadata")
    before = metadata.get("prev_file") if isinstance(metadata, dict) else None
    return (
        resource if isinstance(resource, str) else None,
        before if isinstance(before, str) and os.path.basename(before) == before else None,
    )


def _without_copies(
    found: list[Segment], grown: int
) -> tuple[list[Segment], list[tuple[Segment, Segment]]]:
    """
    Leave out files that begin like another one: a backup, or an archive beside its compressed form.
    """

    def completeness(segment: Segment) -> tuple[bool, int, bool, str]:
        # How long a compressed file is cannot be known without reading it.
        size = grown if segment.live else segment.size
        return segment.packed is not None, -size, not segment.live, segment.path

    kept: dict[str, Segment] = {}
    copies: list[tuple[Segment, Segment]] = []
    rest: list[Segment] = []
    for segment in sorted(found, key=completeness):
        if segment.first is None:
            rest.append(segment)
        elif segment.first.hash in kept:
            copies.append((segment, kept[segment.first.hash]))
        else:
            kept[segment.first.hash] = segment
    return [*kept.values(), *rest], copies


def _in_order(segments: list[Segment]) -> list[Segment]:
    """
    Return *segments* from the oldest to the newest.

    A log that was begun anew counts its lines from 1 again; then time decides.
    """

    def by_seq(segment: Segment) -> tuple[bool, int, bool]:
        # One that cannot be read at all stands where its name says.
        seq = segment.seq or segment.last_seq_by_name or 0
        return not seq, seq, segment.live

    def by_time(segment: Segment) -> tuple[bool, str, int]:
        return segment.first is None, segment.first.timestamp if segment.first else "", segment.seq

    if sum(segment.begins_log for segment in segments) > 1:
        return sorted(segments, key=by_time)
    return sorted(segments, key=by_seq)


# Reading.


class _Stored(RawIOBase):
    """
    The first *size* bytes of a file.
    """

    def __init__(self, fd: int, path: str, size: int, progress: Progress | None) -> None:
        super().__init__()
        self._fd = fd
        self._path = path
        self._size = size
        self._at = 0
        self._progress = progress

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer).cast("B")
        data = read_at(self._fd, self._at, min(len(view), self._size - self._at))
        if not data and self._at < self._size:
            raise TrailError(f"{self._path} became shorter while it was read; run this again")
        view[: len(data)] = data
        self._at += len(data)
        if self._progress is not None:
            self._progress(len(data))
        return len(data)


class _Unpacked(RawIOBase):
    """
    What *read* decompresses.
    """

    def __init__(self, read: Callable[[int], bytes], path: str, *damage: type[Exception]) -> None:
        super().__init__()
        self._read = read
        self._path = path
        self._damage = damage

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer).cast("B")
        try:
            data = self._read(len(view))
        except self._damage as error:
            raise DamagedFileError(f"{self._path} cannot be decompressed: {error}") from error
        view[: len(data)] = data
        return len(data)


@contextmanager
def _reader(fd: int, segment: Segment, progress: Progress | None) -> Generator[BufferedReader]:
    stored: BufferedReader = BufferedReader(
        _Stored(fd, segment.path, segment.size, progress), _BUFFER
    )
    match segment.packed:
        case None:
            yield stored
        case ".gz":
            with gzip.GzipFile(fileobj=stored, mode="rb") as file:
                damage = (EOFError, zlib.error, gzip.BadGzipFile)
                yield BufferedReader(_Unpacked(file.read1, segment.path, *damage), _BUFFER)
        case ".xz":
            with lzma.LZMAFile(stored) as file:
                unpacked = _Unpacked(file.read1, segment.path, EOFError, lzma.LZMAError)
                yield BufferedReader(unpacked, _BUFFER)
        case _:
            yield BufferedReader(_unpacked_zstd(stored, segment.path), _BUFFER)


def _unpacked_zstd(stored: BufferedReader, path: str) -> _Unpacked:
    try:
        import zstandard
    except ImportError as error:
        raise TrailError(
            f"{path} can be read only with the package zstandard; install harken[zstd]"
        ) from error
    reader = zstandard.ZstdDecompressor().stream_reader(stored, read_across_frames=True)
    return _Unpacked(reader.read1, path, zstandard.ZstdError)


def _open(path: str) -> int:
    # A FIFO would block without O_NONBLOCK.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        return os.open(path, flags | getattr(os, "O_CLOEXEC", 0))
    except FileNotFoundError:
        raise
    except PermissionError as error:
        raise ForbiddenLogError(
            f"{path} cannot be read: {error.strerror}; run this as a user who may read it"
        ) from error
    except OSError as error:
        raise TrailError(
            f"{path} cannot be read: {error.strerror}; give the path of an audit log"
        ) from error


def _open_live(path: str) -> int | None:
    try:
        fd = _open(path)
    except FileNotFoundError:
        return None
    mode = os.fstat(fd).st_mode
    if stat.S_ISREG(mode):
        return fd
    os.close(fd)
    what = "is a folder; name the file in it" if stat.S_ISDIR(mode) else "is not a regular file"
    raise TrailError(f"{path} {what}")


def read_at(fd: int, start: int, size: int) -> bytes:
    """
    Return at most *size* bytes of a file from *start* on.
    """
    # Windows has no pread().
    os.lseek(fd, start, os.SEEK_SET)
    return os.read(fd, size)


def _inode(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _is_at(fd: int | None, path: str) -> bool:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return fd is None
    return fd is not None and _inode(os.fstat(fd)) == _inode(found)


def _locked_size(fd: int) -> tuple[int, bool]:
    """
    Return the size of a file between two writes, and whether that could not be had.
    """
    if sys.platform == "win32":
        return os.fstat(fd).st_size, True
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            # Not a POSIX lock: closing this descriptor would lose a writer of this process its own.
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return os.fstat(fd).st_size, True
            time.sleep(0.001)
        except OSError:
            # A file system without locks.
            return os.fstat(fd).st_size, True
        else:
            size = os.fstat(fd).st_size
            fcntl.flock(fd, fcntl.LOCK_UN)
            return size, False


# The end of a log.


class Head(msgspec.Struct, frozen=True):
    """
    The last line of a log: whoever keeps its number and hash can tell later what was changed.

    Attributes:
        path: The file that it stands in.

        timestamp: The line's own, RFC 3339 in UTC.
    """

    path: str
    seq: int
    hash: str
    timestamp: str


def head_of(path: str | os.PathLike[str]) -> Head:
    """
    Return the head of the log at *path*: its last line that is sealed and was not altered.

    This reads the end of the newest file only, and checks nothing but that one line.

    Raises:
        TrailError: There is no such log, or nothing in it is sealed.
    """
    with open_log(path) as log:
        for segment in reversed(log.segments):
            link = None if segment.damage is not None else _last_link(segment)
            if link is not None:
                return Head(segment.path, link.seq, link.hash, link.timestamp)
        raise TrailError(f"{log.path} holds no sealed record; give the path of an audit log")


def _last_link(segment: Segment) -> Link | None:
    last = None
    if segment.packed is None:
        with segment.opened() as fd:
            last = _last_link_of_end(fd, segment.size)
    if last is None:
        for line in segment.lines():
            last = _link(line) or last
    return last


def _last_link_of_end(fd: int, size: int) -> Link | None:
    length = 4096
    while True:
        start = max(0, size - length)
        lines = read_at(fd, start, size - start).split(b"\n")
        # Behind the last line feed there is nothing, or half a line.
        for line in reversed(lines[1 if start else 0 : -1]):
            link = _link(line + b"\n")
            if link is not None:
                return link
        if not start or length >= _SEARCHED:
            return None
        length *= 4


def _link(line: bytes) -> Link | None:
    try:
        return link_of(line)
    except RecordError:
        return None


def digest_of_path(path: str) -> str:
    """
    Return what events about an audit log call its path.
    """
    return f"sha256:{sha256(os.fsencode(os.path.abspath(path))).hexdigest()}"
