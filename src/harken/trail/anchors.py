"""
Anchors: heads of a log that were kept elsewhere.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from functools import partial

import msgspec

from harken.trail.files import LONGEST, TrailError, digest_of_path

MAX_ANCHORS = 50_000
"""How many are kept of one log; of more, every other one is forgotten, and never the last."""

_PLAIN = re.compile(rb"\s*([1-9]\d{0,17})\s+([0-9a-fA-F]{64})\s*")
_HEX = re.compile(r"[0-9a-f]{64}")
_CHECKPOINT = "harken.audit_checkpoint"


class Anchor(msgspec.Struct, frozen=True):
    """
    The hash that a line of a log had when somebody took note of it.

    Attributes:
        file: Where that was noted, with the line there.

        log: What the path of the log is called there; None when that is not said.
    """

    seq: int
    hash: str
    file: str
    line: int
    log: str | None = None


class _Noted(msgspec.Struct):
    """
    What an anchor may look like in JSON: a head, or a line of the log of events.
    """

    seq: int | None = None
    hash: str | None = None
    event_name: str | None = None
    data: _Noted | None = None
    count: int | None = None
    head: str | None = None
    path_digest: str | None = None


def read_anchors(paths: Iterable[str | os.PathLike[str]], log: str) -> tuple[Anchor, ...]:
    """
    Return the anchors of the log at the path *log* that stand in the files *paths*.

    Each line of a file is ``SEQ HASH``, what ``harken head --json`` prints, or a JSON line about
    the event ``harken.audit_checkpoint``; others are skipped. When checkpoints of several logs
    stand there, those of this one are known by its path.

    Raises:
        TrailError: A file cannot be read, or has no anchor; or it is not clear which are meant.
    """
    digest = digest_of_path(log)
    found: dict[str | None, list[Anchor]] = {}
    last: dict[str | None, Anchor] = {}
    for path in paths:
        name = os.fsdecode(path)
        some = False
        for anchor in _anchors(name):
            some = True
            anchors = found.setdefault(anchor.log, [])
            anchors.append(anchor)
            if anchor.log not in last or anchor.seq > last[anchor.log].seq:
                last[anchor.log] = anchor
            if len(anchors) > MAX_ANCHORS:
                del anchors[::2]
        if not some:
            raise TrailError(
                f"{name} has no anchor; it takes lines of `SEQ HASH`, what `harken head --json` "
                f"prints, or JSON lines of {_CHECKPOINT}"
            )
    others = [one for one in found if one is not None and one != digest]
    if digest not in found and len(others) > 1:
        raise TrailError(
            f"the anchors are those of {len(others)} logs, and none is called {digest}, as the "
            f"path {log} is; give those of this log only"
        )
    wanted = (None, digest) if digest in found else (None, *others)
    kept = {
        (anchor.seq, anchor.hash): anchor
        for one in wanted
        if one in found
        for anchor in (*found[one], last[one])
    }
    return tuple(kept.values())


def _anchors(name: str) -> Iterator[Anchor]:
    try:
        with open(name, "rb") as file:
            number, whole = 0, True
            for line in iter(partial(file.readline, LONGEST), b""):
                if whole:
                    number += 1
                    anchor = _anchor(line, name, number)
                    if anchor is not None:
                        yield anchor
                whole = line.endswith(b"\n")
    except OSError as error:
        raise TrailError(f"{name} cannot be read: {error.strerror}") from error


def _anchor(line: bytes, name: str, number: int) -> Anchor | None:
    plain = _PLAIN.fullmatch(line)
    if plain is not None:
        return Anchor(int(plain[1]), plain[2].decode().lower(), name, number)
    # Most lines of a log of events are about something else.
    if b'"seq"' not in line or not line.lstrip().startswith(b"{"):
        return None
    try:
        noted = msgspec.json.decode(line, type=_Noted)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if noted.event_name == _CHECKPOINT:
        told = noted.data or noted
        return _checked(told.count, told.head, name, number, told.path_digest)
    if noted.event_name is None:
        return _checked(noted.seq, noted.hash, name, number, None)
    return None


def _checked(
    seq: int | None, digest: str | None, name: str, number: int, log: str | None
) -> Anchor | None:
    if seq is None or seq < 1 or digest is None or _HEX.fullmatch(digest) is None:
        return None
    return Anchor(seq, digest, name, number, log)
