"""
How fast a log is forwarded, beside the engine's own client that sends the same lines in batches.

Both send to a server on the loopback, and both wait until it has acknowledged. The client on its
own has no log to read, no attributes to send and nothing to go on from; it sends one field. Rates
are of the sender's processor time, and of the wall. Also, how long an event of the action trail is
under way from `publish()` to whoever reads the stream.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from measure import Results, begin

from harken import Bus, Event, scope
from harken.catalog import ErrorRaised
from harken.forward import Forwarder, StreamTarget, consume, target_of
from harken.forward.action_trail import ActionTrail
from harken.sinks.audit import AuditLog
from harken.trail import open as open_trail

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.forward.servers import NatsServer, RedisServer, Server, stop

RECORDS = 20_000
BATCH = 100
EVENTS = 300


class FileRead(
    Event, name="benchmark.file_forwarded", audit=True, action="read", resource="file:{number}"
):
    """
    A file was read.
    """

    number: int
    path: str = "infra/modules/network/main.tf"


def write(path: Path, count: int) -> list[bytes]:
    """
    Write a log, and return its lines.
    """
    bus = Bus(redaction=False)
    bus.attach(AuditLog(path))
    with scope(run_id="r-1", actor="agent:bench"):
        for number in range(count):
            bus.publish(FileRead(number=number))
    bus.close()
    with open_trail(path) as trail:
        return [entry.line for entry in trail.entries()]


def by_redis(url: str, lines: list[bytes], key: str) -> None:
    """
    Send with redis-py alone.
    """
    import redis

    with redis.Redis.from_url(url) as client:
        for at in range(0, len(lines), BATCH):
            pipeline = client.pipeline(transaction=True)
            for line in lines[at : at + BATCH]:
                pipeline.xadd(key, {"data": line})
            pipeline.execute()


def by_nats(url: str, lines: list[bytes], key: str) -> None:
    """
    Send with nats-py alone.
    """
    import nats

    async def send() -> None:
        client = await nats.connect(url)
        context = client.jetstream()
        await context.add_stream(name="RAW", subjects=["raw.>"])
        for at in range(0, len(lines), BATCH):
            some = lines[at : at + BATCH]
            await asyncio.gather(*(context.publish(f"raw.{key}", line) for line in some))
        await client.close()

    asyncio.run(send())


def rates(count: int, send: Callable[[], object]) -> tuple[float, float]:
    """
    Return lines per second of processor time, and on the wall.
    """
    wall, busy = time.perf_counter(), time.process_time()
    send()
    return count / (time.process_time() - busy), count / (time.perf_counter() - wall)


def busy_seconds(server: Server) -> float:
    """
    Return the processor time of a server so far; Linux only.
    """
    assert server.process is not None
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def bytes_of(folder: Path) -> int:
    """
    Return how large the files below a folder are.
    """
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def measure(results: Results, server: Server, raw: Callable[[str, list[bytes], str], None]) -> None:
    """
    Compare a target with its client, and ask what its server has to do for it.
    """
    engine = server.scheme
    ours: list[tuple[float, float]] = []
    theirs: list[tuple[float, float]] = []
    batched: list[float] = []
    stored_bytes: list[float] = []
    with tempfile.TemporaryDirectory(prefix="harken-benchmark-") as name:
        path = Path(name, "audit.jsonl")
        lines = write(path, results.scaled(RECORDS))

        def forward(source: str, **options: object) -> Forwarder:
            target: StreamTarget = target_of(server.url, **options)
            cursor = Path(name, f"{source[1:].replace('/', '-')}.cursor")
            return Forwarder(path, target, source=source, cursor=cursor)

        for number in range(results.rounds):
            busy, size = busy_seconds(server), bytes_of(server.folder)
            forwarder = forward(f"/bench/{number}")
            ours.append(rates(len(lines), partial(forwarder.run, once=True)))
            assert forwarder.forwarded == len(lines)
            batched.append((busy_seconds(server) - busy) / len(lines) * 1e6)
            stored_bytes.append((bytes_of(server.folder) - size) / len(lines))
            theirs.append(rates(len(lines), partial(raw, server.url, lines, f"raw-{number}")))
        size_of_line = statistics.mean(map(len, lines))
        busy = busy_seconds(server)
        forward("/bench/single", max_batch=1).run(once=True)
        single = (busy_seconds(server) - busy) / len(lines) * 1e6
    bar = 0.5 if engine == "redis" else None
    for which, at in (("of processor time", 0), ("on the wall", 1)):
        results.add(f"{engine}: forwarded per second {which}", [one[at] for one in ours], "lines/s")
        results.add(f"{engine}: its client alone {which}", [one[at] for one in theirs], "lines/s")
        ratios = [one[at] / other[at] for one, other in zip(ours, theirs, strict=True)]
        what = f"{engine}: forwarding against its client {which}"
        results.add(what, ratios, "x", bar=bar, at_least=True)
    results.add(f"{engine}: bytes of a line", [size_of_line], "bytes")
    results.add(f"{engine}: bytes on its disk", stored_bytes, "bytes")
    results.add(f"{engine}: its server's processor time, many at once", batched, "us/line")
    results.add(f"{engine}: its server's processor time, one at a time", [single], "us/line")
    consumed(results, server)


def consumed(results: Results, server: Server) -> None:
    """
    Measure how fast one consumer is.
    """
    import redis

    if server.scheme == "redis":
        with redis.Redis.from_url(server.url) as client:
            for number in range(results.rounds):
                client.delete(f"raw-{number}")
            memory = client.memory_usage("harken:bench/0", samples=0) or 0
            entries = client.xlen("harken:bench/0")
        results.add("redis: memory of an entry", [memory / entries], "bytes")
    count = 0
    busy = time.process_time()
    for _ in consume(server.url, group="bench", seconds=1.0, idle=60.0, batch=500):
        count += 1
        if count == results.scaled(RECORDS):
            break
    rate = count / (time.process_time() - busy)
    results.add(f"{server.scheme}: consumed per second of processor time", [rate], "events/s")


def latency(results: Results, server: Server) -> None:
    """
    Measure how long an event of the action trail is under way.
    """
    import redis

    taken: list[float] = []
    with tempfile.TemporaryDirectory(prefix="harken-benchmark-") as name:
        bus = Bus()
        bus.attach(AuditLog(Path(name, "audit.jsonl")))
        seen: dict[str, float] = {}
        count = results.scaled(EVENTS)

        def read() -> None:
            last = "0"
            with redis.Redis.from_url(server.url) as client:
                while len(seen) < count:
                    for _, entries in client.xread({"action-trail:s": last}, block=1000):
                        for entry, fields in entries:
                            seen[fields[b"data"].decode()] = time.perf_counter()
                            last = entry

        reader = threading.Thread(target=read)
        reader.start()
        sent: list[tuple[str, float]] = []
        with Forwarder(Path(name, "audit.jsonl"), ActionTrail(server.url)), scope(session_id="s"):
            for number in range(count):
                sent.append((f'"component":"c-{number}"', time.perf_counter()))
                bus.publish(ErrorRaised(component=f"c-{number}"))
                time.sleep(0.01)
            reader.join()
        bus.close()
        for text, begun in sent:
            arrived = next(at for data, at in seen.items() if text in data)
            taken.append((arrived - begun) * 1000)
    percentiles = statistics.quantiles(taken, n=100)
    results.add("action trail: from publish to the reader, half", [percentiles[49]], "ms")
    results.add("action trail: from publish to the reader, 99 %", [percentiles[98]], "ms", bar=150)


def main() -> int:
    results = begin(__doc__, __file__, rounds=5)
    for kind, command, raw in (
        (RedisServer, "redis-server", by_redis),
        (NatsServer, "nats-server", by_nats),
    ):
        if shutil.which(command) is None:
            print(f"{command} is not installed; left out")
            continue
        with tempfile.TemporaryDirectory() as folder:
            server = kind(command, Path(folder) / "server")
            server.start()
            try:
                measure(results, server, raw)
                if kind is RedisServer:
                    latency(results, server)
            finally:
                stop(server)
    results.save()
    return 0


if __name__ == "__main__":
    sys.exit(main())
