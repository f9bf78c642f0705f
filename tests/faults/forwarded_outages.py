"""
Let the server of a forwarder be away: killed for 3 s and for 30 s, and behind a black hole.

A process publishes every 5 ms meanwhile, and measures how long each call takes; phases in which all
is well, and in which the server is away, take turns and are equally long. Prints what was written
and what is in the stream, and the 99th percentiles of `publish()` in the phases of each kind, as
median, least and greatest: where the ranges meet, no difference was measured. Exits with 1 unless
the stream is the log: 0 lines lost, 0 there twice, in order. The percentiles decide nothing: the
machine may have other things to do.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.forward.conftest import lines_of
from tests.forward.engines import ENGINES, Engine
from tests.forward.servers import Way, stop
from tests.servers import wait_for

PUBLISHER = """
import sys, time
from harken import Bus
from harken.catalog import ErrorRaised
from harken.forward import Forwarder, target_of
from harken.sinks.audit import AuditLog

path, url, seconds, out = sys.argv[1:]
bus = Bus()
bus.attach(AuditLog(path, max_bytes=500_000))
forwarder = Forwarder(path, target_of(url, timeout=1.0), source="/faults/one")
forwarder.start()
taken = []
end = time.monotonic() + float(seconds)
while time.monotonic() < end:
    event = ErrorRaised(component="part", error_message="x" * 300)
    begun = time.monotonic()
    bus.publish(event)
    taken.append((begun, time.monotonic() - begun))
    time.sleep(0.005)
bus.close()
with open(out, "w") as file:
    file.writelines(f"{begun} {seconds}\\n" for begun, seconds in taken)
while forwarder.lag.bytes:
    time.sleep(0.05)
forwarder.stop()
"""


def run(engine: Engine, how: str, away: float, rounds: int) -> bool:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server = engine.server(engine.command, folder / "server")
        server.start()
        way = Way(server.port)
        try:
            url = f"{server.scheme}://127.0.0.1:{way.port}"
            log, out = folder / "audit.jsonl", folder / "taken.txt"
            argv = [str(log), url, str(away * 2 * rounds + 8), str(out)]
            process = subprocess.Popen([sys.executable, "-c", PUBLISHER, *argv])
            wait_for(lambda: len(engine.stored(server.url, "/faults/one")) > 200, "first lines")
            marks = [time.monotonic()]
            for _ in range(rounds):
                time.sleep(away)
                marks.append(time.monotonic())
                if how == "killed":
                    server.kill()
                else:
                    way.blocked = True
                time.sleep(away)
                marks.append(time.monotonic())
                if how == "killed":
                    server.start()
                else:
                    way.blocked = False
                    way.cut()
            process.wait()
            written = lines_of(log)
            stream = [one.line for one in engine.stored(server.url, "/faults/one")]
        finally:
            way.close()
            stop(server)
        taken = [tuple(map(float, line.split())) for line in out.read_text().splitlines()]
    phases = [
        statistics.quantiles([took for begun, took in taken if begin <= begun < end], n=100)[98]
        for begin, end in pairwise(marks)
    ]
    print(
        f"{engine.name} {how} for {away:g} s, {rounds} times: {len(written)} lines written, "
        f"{len(stream)} in the stream, lost {len(set(written) - set(stream))}, twice "
        f"{len(stream) - len(set(stream))}, in order: {written == stream}; p99 of publish "
        f"{spread(phases[::2])} when all was well, {spread(phases[1::2])} meanwhile; longest "
        f"{max(took for _, took in taken) * 1e3:.1f} ms",
        flush=True,
    )
    return written == stream


def spread(seconds: list[float]) -> str:
    least, middle, most = (
        one * 1e6 for one in (min(seconds), statistics.median(seconds), max(seconds))
    )
    return f"{middle:.0f} us ({least:.0f} to {most:.0f})"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, nargs="*", default=[3.0, 30.0])
    parser.add_argument("--rounds", type=int, default=3)
    args, _ = parser.parse_known_args()
    fine = True
    for engine in ENGINES:
        if shutil.which(engine.command) is None:
            print(f"{engine.command} is not installed; left out")
            continue
        for seconds in args.seconds:
            fine = run(engine, "killed", seconds, args.rounds) and fine
        fine = run(engine, "behind a black hole", min(args.seconds), args.rounds) and fine
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
