"""
Write the capacity page: what a fleet asks of an engine, from rates that `forwarding.py` measured.

The fleet is 10,000 hosts with 50 events a second each, unless told otherwise. Nothing is measured
here: each figure is a rate of the results, or follows from rates by the arithmetic below.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path

DAY = 86_400
# How much of a processor, and of the memory of a server, is meant to be used.
USED = 0.5
MEMORY_GB = 64
DISK_TB = 4
REDIS_CLIENTS = 10_000
PAGE = Path(__file__).with_name("capacity.md")


@dataclass(frozen=True)
class Engine:
    """
    What was measured of one engine.
    """

    sender: float
    line: float
    disk: float
    batched_us: float
    single_us: float
    consumed: float
    memory: float | None = None


def read(path: Path) -> tuple[dict[str, object], dict[str, Engine]]:
    """
    Return the results, and what they say of each engine.
    """
    found = json.loads(path.read_text(encoding="utf-8"))
    values = {row["name"]: float(row["value"]) for row in found["rows"]}
    engines = {}
    for name in ("redis", "nats"):

        def of(what: str, name: str = name) -> float:
            return values[f"{name}: {what}"]

        engines[name] = Engine(
            of("forwarded per second of processor time"),
            of("bytes of a line"),
            of("bytes on its disk"),
            of("its server's processor time, many at once"),
            of("its server's processor time, one at a time"),
            of("consumed per second of processor time"),
            values.get(f"{name}: memory of an entry"),
        )
    return found, engines


def shards(engine: Engine, total: float, micros: float) -> int:
    """
    Return how many servers take *total* lines a second.
    """
    return math.ceil(total * micros / 1e6 / USED)


def hours(engine: Engine, total: float, servers: int) -> float:
    """
    Return how long the servers can keep what arrives: in memory, or on disk.
    """
    if engine.memory is not None:
        return servers * MEMORY_GB * 1e9 * USED / (total * engine.memory) / 3600
    return servers * DISK_TB * 1e12 * USED / (total * engine.disk) / 3600


def table(rows: list[tuple[str, str, str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def page(path: Path, hosts: int, rate: float) -> str:
    """
    Return the page.
    """
    found, engines = read(path)
    redis, nats = engines["redis"], engines["nats"]
    total = hosts * rate
    pair = (redis, nats)
    many = [shards(one, total, one.batched_us) for one in pair]
    single = [shards(one, total, one.single_us) for one in pair]
    kept = [hours(one, total, count) for one, count in zip(pair, many, strict=True)]
    consumers = [math.ceil(total / one.consumed / USED) for one in pair]
    connections = math.ceil(hosts / (REDIS_CLIENTS * USED))

    def row(what: str, *texts: object) -> tuple[str, str, str]:
        one, other = texts
        return what, str(one), str(other)

    measured = [
        row("lines per second of the sender's processor", *(f"{one.sender:,.0f}" for one in pair)),
        row("server, full batches, per line", *(f"{one.batched_us:.1f} us" for one in pair)),
        row("server, one line at a time", *(f"{one.single_us:.1f} us" for one in pair)),
        row("memory of a line", f"{redis.memory or 0:,.0f} bytes", "-"),
        row("disk of a line", *(f"{one.disk:,.0f} bytes" for one in pair)),
        row(
            "events per second of a consumer's processor", *(f"{one.consumed:,.0f}" for one in pair)
        ),
    ]
    needed = [
        row("streams", f"{hosts:,}, one for each log", f"{many[1]}, with a subject for each log"),
        row("shards, full batches", *many),
        row("shards, one line at a time", *single),
        row("bytes a day", *(f"{total * DAY * one.disk / 1e12:,.1f} TB" for one in pair)),
        row(
            f"kept by so many shards ({MEMORY_GB} GB of memory, or {DISK_TB} TB of disk, each)",
            *(f"{one * 60:,.0f} minutes" if one < 3 else f"{one:,.0f} hours" for one in kept),
        ),
        row(
            "shards that keep a day",
            *(math.ceil(n * 24 / h) for n, h in zip(many, kept, strict=True)),
        ),
        row("consumers' processors, for every event once", *(f"{one:,}" for one in consumers)),
        row("shards for the connections alone", connections, "-"),
    ]
    grows = rate * redis.line * 3600 / 1e6
    texts = (
        (
            f"**Memory, with Redis.** {many[0]} shards can process what arrives, and keep it for "
            f"{kept[0] * 60:,.0f} minutes. Consumers that are away for longer miss what was "
            f"trimmed; the logs on the hosts still have it. {needed[5][1]} shards keep a day; "
            "JetStream keeps it on disk, or a consumer puts what arrives where it stays."
        ),
        (
            f"**Small batches.** A host with {rate:g} events a second fills no batch: looked at "
            f"every 20 ms, each is sent alone, and the same servers need "
            f"{single[0] / many[0]:.1f} times (Redis) and {single[1] / many[1]:.1f} times "
            "(JetStream) the processors. "
            "`harken forward --poll 1` sends together what has gathered in a second."
        ),
        (
            f"**Consumers.** Typed envelopes in Python take {consumers[0]:,} processors (Redis) or "
            f"{consumers[1]:,} (JetStream). Whoever needs no envelopes reads `data`."
        ),
        (
            f"**Connections.** Each host holds one; a Redis with {REDIS_CLIENTS:,} clients needs "
            f"{connections} shards at {USED:.0%}."
        ),
        (
            "**Keys.** A consumer asks for all streams of its pattern at once. How many that can "
            "be was not measured; give each group of consumers the pattern of one shard."
        ),
    )
    breaks = "\n".join(f"{number}. {text}" for number, text in enumerate(texts, 1))
    about = found.get("machine", {})
    assert isinstance(about, dict)
    return PAGE.read_text(encoding="utf-8").format(
        when=found["date"],
        python=found["python"],
        cores=about.get("cores", ""),
        file=path.name,
        hosts=hosts,
        rate=rate,
        total=total,
        day_events=total * DAY / 1e9,
        line=redis.line,
        mb=total * redis.line / 1e6,
        tb=total * redis.line * DAY / 1e12,
        share=rate / redis.sender,
        measured=table(measured),
        used=USED,
        needed=table(needed),
        breaks=breaks,
        host_mb=grows,
        host_days=100e3 / grows / 24,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--hosts", type=int, default=10_000)
    parser.add_argument("--rate", type=float, default=50.0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    text = page(options.results, options.hosts, options.rate)
    if options.out is None:
        print(text)
    else:
        options.out.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
