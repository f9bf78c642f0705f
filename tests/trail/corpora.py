"""
Logs of agents that were never there: whatever members and times a test wants.
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from harken.record import ALWAYS, CHAIN, GENESIS, OPTIONAL, rfc3339

BEGAN_NS = 1_795_255_200_000_000_000
"""2026-11-21T10:00:00Z."""

SECOND = 1_000_000_000

JUNK = (
    b"\n",
    b"{}\n",
    b"not a record\n",
    b"\0" * 100 + b"\n",
    b'{"timestamp":"2026-11-21T10:00:00.000000Z","seq":1,"event_type":\xff}\n',
    b'{"timestamp": "2026-11-21T10:30:00Z", "seq": "7", "event_type": "tool.completed"}\n',
)
"""Lines that are no records."""


def event_id(time_ns: int, number: int) -> str:
    """
    Return a UUIDv7.
    """
    text = f"{time_ns // 1_000_000:012x}7{number % 4096:03x}8{number:015x}"
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


class Chain:
    """
    Makes the lines of a log, one after the other.
    """

    def __init__(self) -> None:
        self.seq = 0
        self.head = GENESIS

    def line(self, time_ns: int, **members: Any) -> bytes:
        self.seq += 1
        values: dict[str, Any] = {
            "timestamp": rfc3339(time_ns),
            "seq": self.seq,
            "v": 1,
            "id": event_id(time_ns, self.seq),
            "event_type": "tool.completed",
            "actor": "agent:a",
            "action": "call",
            "resource": "tool:search",
            "outcome": "success",
            "metadata": {},
            "correlation_id": None,
            "trace_id": f"{1:032x}",
            "span_id": f"{self.seq:016x}",
            "writer": "w",
            "n": self.seq,
            "prev": self.head,
            **members,
        }
        ordered = {n: values[n] for n in (*ALWAYS, *OPTIONAL, *CHAIN) if n in values}
        text = json.dumps(ordered, separators=(",", ":"))[:-1]
        self.head = sha256(text.encode()).hexdigest()
        return f'{text},"hash":"{self.head}"}}\n'.encode()

    def lines(self, records: Iterable[Mapping[str, Any]]) -> list[bytes]:
        return [self.line(**record) for record in records]


TYPES = (
    *("tool.started", "tool.completed", "tool.failed", "llm.completed", "policy.evaluated"),
    *("text.emitted", "run.started", "run.completed"),
)
ACTORS = ("agent:coder", "agent:reviewer", "user:ana", "service:bot")
OUTCOMES = ("success", "failure", "timeout", "denied", None)
TEXTS = ("plain", "café ☕", 'quote " and \\', "line\nfeed", "\x1b[31mred", "a" * 200)


def work(count: int, seed: int = 0, seconds: int = 10_800) -> Iterator[dict[str, Any]]:
    """
    Yield the members of *count* records, spread over *seconds*; now and then a time goes back.
    """
    chance = random.Random(seed)
    for number in range(count):
        time_ns = BEGAN_NS + number * seconds * SECOND // count - chance.randrange(2 * SECOND)
        run = f"run-{number // 50}"
        yield {
            "time_ns": time_ns // 1000 * 1000,
            "event_type": chance.choice(TYPES),
            "actor": chance.choice(ACTORS),
            "outcome": chance.choice(OUTCOMES),
            "resource": f"tool:{chance.choice(('search', 'bash', 'write'))}",
            "run_id": run,
            "session_id": f"s-{number // 500}",
            **({"parent_run_id": f"run-{number // 50 - 1}"} if number % 3 == 0 else {}),
            "trace_id": f"{number // 50:032x}",
            "metadata": {
                "duration_ms": chance.choice((None, chance.randrange(5000), chance.random() * 9)),
                "input_tokens": chance.randrange(900),
                "cost_usd": round(chance.random(), 4),
                "text": chance.choice(TEXTS),
                "nested": {"flag": chance.random() < 0.5, "list": [1, {"x": number % 7}]},
                "dotted.name": number % 5,
            },
        }


def write_corpus(folder: Path, count: int = 4000) -> tuple[Path, list[dict[str, Any]]]:
    """
    Write a log in four files, one of them compressed, with junk in it; return its path and what
    its records say, in order.
    """
    path = folder / "audit.jsonl"
    lines = Chain().lines(work(count))
    part = count // 4
    names = ("audit.jsonl.1", "audit.jsonl.2", "audit.jsonl.3.gz", "audit.jsonl")
    chance = random.Random(1)
    for place, name in enumerate(names):
        content = lines[place * part : (place + 1) * part]
        if place % 2:
            for junk in JUNK:
                content.insert(chance.randrange(1, len(content)), junk)
        data = b"".join(content)
        (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path, [json.loads(line) for line in lines]
