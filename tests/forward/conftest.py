"""
A log to forward, whoever writes it, and the server of each engine.
"""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.forward.engines import ENGINES, Engine, Stored
from tests.forward.servers import Server, Way, stop
from tests.servers import wait_for

import harken.trail
from harken import Bus, Event
from harken.forward import Forwarder
from harken.sinks.audit import AuditLog


class Tolled(Event, name="forward_test.tolled", audit=True):
    """
    A bell tolled.
    """

    number: int = 0
    text: str = ""


class Log:
    """
    An audit log that this process writes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.bus = Bus()
        self.count = 0
        self.bus.attach(AuditLog(path, max_bytes=60_000, checkpoint_seconds=1000))
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def write(self, count: int = 1, text: str = "x" * 200) -> None:
        for _ in range(count):
            self.count += 1
            self.bus.publish(Tolled(number=self.count, text=text))

    def write_on(self, pause: float = 0.001) -> None:
        """
        Write in a thread until `rest()`.
        """

        def write() -> None:
            while not self._stopping.wait(pause):
                self.write()

        self._stopping.clear()
        self._thread = threading.Thread(target=write)
        self._thread.start()

    def rest(self) -> None:
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()

    @property
    def lines(self) -> list[bytes]:
        return lines_of(self.path)


def lines_of(path: Path) -> list[bytes]:
    """
    Return all lines of a log, over all its files.
    """
    with harken.trail.open(path) as trail:
        return [entry.line for entry in trail.entries()]


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    made = Log(tmp_path / "audit.jsonl")
    yield made
    made.rest()
    made.bus.close()


@pytest.fixture(params=ENGINES, ids=lambda engine: engine.name)
def engine(request: pytest.FixtureRequest) -> Engine:
    found: Engine = request.param
    if importlib.util.find_spec(found.package) is None:
        pytest.skip(f"the package {found.package} is not installed")
    return found


@pytest.fixture
def server(
    engine: Engine, tmp_path: Path, require_server: Callable[[str], str]
) -> Iterator[Server]:
    made = engine.server(require_server(engine.command), tmp_path / "server")
    made.start()
    yield made
    stop(made)


@pytest.fixture
def way(server: Server) -> Iterator[Way]:
    made = Way(server.port)
    yield made
    made.close()


Forward = Callable[..., Forwarder]


@pytest.fixture
def forward(engine: Engine, server: Server, log: Log) -> Iterator[Forward]:
    """
    A function that makes a forwarder to the server, through another port if one is given.
    """
    made: list[Forwarder] = []

    def make(port: int | None = None, *, timeout: float = 1.0, **options: object) -> Forwarder:
        url = server.url if port is None else f"{server.scheme}://127.0.0.1:{port}"
        made.append(Forwarder(log.path, engine.target(url, timeout=timeout), **options))
        return made[-1]

    yield make
    for forwarder in made:
        assert forwarder.stop(30)


Stream = Callable[[], list[Stored]]


@pytest.fixture
def stream(engine: Engine, server: Server) -> Stream:
    """
    A function that returns all that the engine holds of the log.
    """
    return lambda: engine.stored(server.url)


@pytest.fixture
def arrived(log: Log, stream: Stream) -> Callable[[], None]:
    """
    A function that waits until the engine holds the log, each line once and in order.
    """

    def check() -> None:
        wait_for(lambda: len(stream()) >= len(log.lines), "the log to be in the stream")

        assert log.lines == [stored.line for stored in stream()]

    return check
