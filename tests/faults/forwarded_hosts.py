"""
Three hosts forward to one server, and two consumers share the work, of which one is killed.

Each host is a network namespace, with a process that publishes and one that forwards; the way of
one of them is a black hole for a while. Prints what was written, arrived and was consumed. Exits
with 1 unless every event was consumed, none is left twice once those are taken out that the
consumer which was killed was working on, and the chains of all hosts verify at the far end. Needs
root and Linux; without them it says so and does nothing.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.forward.servers import NatsServer, RedisServer, Server, stop
from tests.servers import wait_for

import harken.trail
from harken.forward import prove, stored

HOSTS = 3
NET = "10.213.7"

PRODUCER = """
import sys, time
from harken import Bus
from harken.catalog import ErrorRaised
from harken.sinks.audit import AuditLog

bus = Bus()
bus.attach(AuditLog(sys.argv[1], max_bytes=200_000))
end = time.monotonic() + float(sys.argv[2])
number = 0
while time.monotonic() < end:
    number += 1
    bus.publish(ErrorRaised(component=f"part-{number}"))
    time.sleep(0.002)
bus.close()
"""

CONSUMER = """
import sys
from harken.forward import consume

url, name, out = sys.argv[1:]
with open(out, "a") as file:
    for envelope in consume(url, group="all", consumer=name, idle=2.0, batch=20):
        file.write(f"{envelope.id}\\n")
        file.flush()
"""


def ip(*args: str) -> None:
    subprocess.run(["ip", *args], check=True)


def add_host(number: int) -> str:
    """
    Make a network namespace that reaches the server's address.
    """
    name, near, far = f"harken{number}", f"hk{number}", f"hkfar{number}"
    ip("netns", "add", name)
    ip("link", "add", near, "type", "veth", "peer", "name", far, "netns", name)
    ip("link", "set", near, "master", "harken", "up")
    ip("-n", name, "addr", "add", f"{NET}.{number + 2}/24", "dev", far)
    ip("-n", name, "link", "set", far, "up")
    return name


def remove_hosts() -> None:
    for number in range(HOSTS):
        for args in (("link", "del", f"hk{number}"), ("netns", "del", f"harken{number}")):
            subprocess.run(["ip", *args], check=False, stderr=subprocess.DEVNULL)
    subprocess.run(["ip", "link", "del", "harken"], check=False, stderr=subprocess.DEVNULL)


class Open(RedisServer):
    def argv(self) -> list[str]:
        return [*super().argv(), "--bind", "0.0.0.0", "--protected-mode", "no"]


class OpenNats(NatsServer):
    def argv(self) -> list[str]:
        return [*super().argv(), "-a", "0.0.0.0"]


def ids_of(path: Path) -> list[str]:
    with harken.trail.open(path) as trail:
        return [
            str(record.id)
            for record in trail.records()
            if not record.event_type.startswith("audit.")
        ]


def run(server: Server, seconds: float, folder: Path) -> bool:
    url = f"{server.scheme}://{NET}.1:{server.port}"
    here: list[subprocess.Popen[bytes]] = []

    def spawn(*argv: str, host: str | None = None) -> subprocess.Popen[bytes]:
        inside = [] if host is None else ["ip", "netns", "exec", host]
        here.append(subprocess.Popen([*inside, sys.executable, *argv]))
        return here[-1]

    ip("link", "add", "harken", "type", "bridge")
    ip("addr", "add", f"{NET}.1/24", "dev", "harken")
    ip("link", "set", "harken", "up")
    try:
        server.start()
        outs = [folder / f"{name}.ids" for name in ("one", "two")]
        consumers = [spawn("-c", CONSUMER, server.url, out.stem, str(out)) for out in outs]
        logs, producers = [], []
        for number in range(HOSTS):
            host, path = add_host(number), folder / f"host-{number}" / "audit.jsonl"
            path.parent.mkdir()
            logs.append(path)
            producers.append(spawn("-c", PRODUCER, str(path), str(seconds), host=host))
            argv = ("-m", "harken", "forward", "-F", str(path), "--to", url)
            spawn(*argv, "--source", f"/fleet/host-{number}", host=host)
        time.sleep(seconds / 3)
        ip("link", "set", "hk1", "down")
        consumers[0].kill()
        time.sleep(seconds / 3)
        ip("link", "set", "hk1", "up")
        for producer in producers:
            producer.wait()
        written = [one for path in logs for one in ids_of(path)]
        consumed = lambda: [one for out in outs for one in out.read_text().split()]  # noqa: E731
        wait_for(lambda: set(consumed()) >= set(written), "all events to be consumed")
        time.sleep(3)
    finally:
        for process in here:
            process.kill()
            process.wait()
        remove_hosts()
    counts = Counter(consumed())
    twice = {one for one, count in counts.items() if count > 1}
    under_way = set(outs[0].read_text().split()[-20:])
    expected = [f"/fleet/host-{number}" for number in range(HOSTS)]
    proof = prove(stored(server.url), expected=expected)
    arrived = ", ".join(f"{one.source} {one.lines} {one.verdict}" for one in proof.arrived)
    print(
        f"{server.scheme}: written {len(written)}, consumed {len(counts)}, lost "
        f"{len(set(written) - set(counts))}, worked on twice {len(twice)} (all of them under way "
        f"when their consumer was killed: {twice <= under_way}), once the same ids are taken out "
        f"{len(counts)}; {arrived}; far end: {proof.verdict}"
    )
    return set(written) == set(counts) and twice <= under_way and proof.verdict == "ok"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=12.0)
    args, _ = parser.parse_known_args()
    if os.geteuid() != 0 or shutil.which("ip") is None:
        print("this needs root and the command ip; nothing was done")
        return 0
    fine = True
    for kind, command in ((Open, "redis-server"), (OpenNats, "nats-server")):
        if shutil.which(command) is None:
            print(f"{command} is not installed; left out")
            continue
        with tempfile.TemporaryDirectory() as folder:
            server = kind(command, Path(folder) / "server")
            try:
                fine = run(server, args.seconds, Path(folder)) and fine
            finally:
                stop(server)
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
