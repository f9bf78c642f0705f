"""
Workers of one program and their metrics: the port is shared, or it is said once whose it is.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.servers import free_port

pytestmark = pytest.mark.once

PATIENCE = 60.0
"""Seconds until a test gives up on a process."""

NOT_SHOWN = "are counted but not shown"
TAKEN_OVER = "serves the metrics now"

ASGI = """
import os

import harken
from harken.catalog import PrCreated

bus = harken.configure(audit=False, log=False, metrics_prometheus_port={port})

async def application(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({{"type": "lifespan.startup.complete"}})
        await receive()
        await bus.aclose()
        await send({{"type": "lifespan.shutdown.complete"}})
        return
    bus.publish(PrCreated(url="u"))
    await bus.aflush()
    headers = [(b"connection", b"close")]
    await send({{"type": "http.response.start", "status": 200, "headers": headers}})
    await send({{"type": "http.response.body", "body": b"%d" % os.getpid()}})
"""

WSGI = """
import os

import harken
from harken.catalog import PrCreated

bus = harken.configure(audit=False, log=False, metrics_prometheus_port={port})

def application(environ, start_response):
    bus.publish(PrCreated(url="u"))
    bus.flush()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"%d" % os.getpid()]
"""

CHILDREN = """
import logging
import multiprocessing
import os
import sys

import harken
from harken.catalog import PrCreated

def work(leave):
    logging.basicConfig(level="INFO")
    bus = harken.configure(audit=False, log=False, metrics_prometheus_port={port})
    bus.publish(PrCreated(url="u"))
    bus.flush()
    print("ready", os.getpid(), flush=True)
    leave.wait()
    bus.close()

if __name__ == "__main__":
    context = multiprocessing.get_context({method!r})
    leaves = [context.Event() for _ in range(2)]
    children = [context.Process(target=work, args=(leave,)) for leave in leaves]
    for child in children:
        child.start()
    print("pids", *(child.pid for child in children), flush=True)
    for line in sys.stdin:
        index = [child.pid for child in children].index(int(line))
        leaves[index].set()
        children[index].join()
        print("left", children[index].exitcode, flush=True)
"""


def wait_until(condition: Callable[[], bool], said: Callable[[], str] = str) -> None:
    """
    Return when *condition* holds; fail with what was *said* when it never does.
    """
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"it never came to that\n{said()}")
        time.sleep(0.02)


class Program:
    """
    A process and all it has said, its children's words included.
    """

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self.process = process
        self._log = log

    @property
    def said(self) -> str:
        return self._log.read_text()

    def hear(self, words: str, times: int = 1) -> None:
        """
        Wait until the program has said *words* so often.
        """
        wait_until(lambda: self.said.count(words) >= times, lambda: self.said)

    def tell(self, line: str) -> None:
        """
        Write a line to its standard input.
        """
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()


@contextmanager
def running(folder: Path, *command: str, **env: str) -> Iterator[Program]:
    """
    Run Python with *command* in *folder*, and see to it that nothing is left of it.
    """
    log = folder / "log.txt"
    with log.open("a") as out:
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=folder,
            env={**os.environ, **env},
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
    try:
        yield Program(process, log)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        assert process.stdin is not None
        process.stdin.close()


def ask(port: int) -> int:
    """
    Return the number of the process that answers a request to the application.
    """
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=PATIENCE) as answer:
        return int(answer.read())


def ask_both(port: int) -> Counter[int]:
    """
    Ask until two workers have answered; return how often each did.
    """
    answers = Counter([ask(port)])
    wait_until(lambda: answers.update([ask(port)]) or len(answers) == 2)
    return answers


def scrape(port: int) -> tuple[int, float]:
    """
    Return which process serves the metrics, and how many requests it has counted.
    """
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE) as answer:
        pid = int(answer.headers["Harken-Process"].split()[0])
        families = text_string_to_metric_families(answer.read().decode())
    counted = sum(
        sample.value
        for family in families
        for sample in family.samples
        if sample.name == "infra_agent_prs_created_total"
    )
    return pid, counted


@pytest.fixture
def shared(tmp_path: Path) -> dict[str, str]:
    """
    The environment of processes that add their numbers up.
    """
    folder = tmp_path / "numbers"
    folder.mkdir()
    return {"PROMETHEUS_MULTIPROC_DIR": str(folder)}


class TestUvicorn:
    @contextmanager
    def _server(self, tmp_path: Path, port: int, **env: str) -> Iterator[tuple[Program, int]]:
        (tmp_path / "app.py").write_text(ASGI.format(port=port))
        own = free_port()
        command = ("-m", "uvicorn", "app:application", "--workers", "2", "--port", str(own))
        with running(tmp_path, *command, **env) as server:
            server.hear("Application startup complete", 2)
            yield server, own

    def test_one_worker_has_the_port(self, tmp_path: Path) -> None:
        """
        Two workers with one fixed port both serve requests; one of them serves its own metrics,
        and the other one says, once, whose the port is.
        """
        port = free_port()
        with self._server(tmp_path, port) as (server, own):
            answers = ask_both(own)
            pid, counted = scrape(port)

        (warning,) = (line for line in server.said.splitlines() if NOT_SHOWN in line)
        (other,) = answers.keys() - {pid}
        assert (answers[pid], True) == (counted, pid in answers)
        assert f"metrics of process {other} {NOT_SHOWN}: process {pid} has port {port};" in warning
        assert "PROMETHEUS_MULTIPROC_DIR" in warning
        assert "MetricsServerError" not in server.said

    def test_numbers_are_added_up(self, tmp_path: Path, shared: dict[str, str]) -> None:
        """
        With a directory for the numbers, whoever serves the port shows both workers'.
        """
        port = free_port()
        with self._server(tmp_path, port, **shared) as (server, own):
            answers = ask_both(own)
            _, counted = scrape(port)

        assert answers.total() == counted
        assert NOT_SHOWN not in server.said


class TestGunicorn:
    @contextmanager
    def _server(
        self, tmp_path: Path, port: int, *options: str, **env: str
    ) -> Iterator[tuple[Program, int]]:
        (tmp_path / "app.py").write_text(WSGI.format(port=port))
        own = free_port()
        bind = ("--workers", "2", "--bind", f"127.0.0.1:{own}", "--no-control-socket")
        with running(tmp_path, "-m", "gunicorn", "app:application", *bind, *options, **env) as one:
            one.hear("Booting worker", 2)
            yield one, own

    def test_preloaded(self, tmp_path: Path) -> None:
        """
        The master of a preloaded application keeps the port, and each worker says so once.
        """
        port = free_port()
        with self._server(tmp_path, port, "--preload") as (server, own):
            answers = ask_both(own)
            pid, _ = scrape(port)
            master = server.process.pid

        assert master == pid
        assert 2 == server.said.count(NOT_SHOWN)
        for worker in answers:
            assert f"metrics of process {worker} {NOT_SHOWN}: process {master}" in server.said

    def test_preloaded_numbers_are_added_up(self, tmp_path: Path, shared: dict[str, str]) -> None:
        """
        With a directory for the numbers, the master shows its workers'.
        """
        port = free_port()
        with self._server(tmp_path, port, "--preload", **shared) as (server, own):
            answers = ask_both(own)
            pid, counted = scrape(port)

        assert (server.process.pid, answers.total()) == (pid, counted)
        assert NOT_SHOWN not in server.said

    def test_each_worker_loads_the_application(self, tmp_path: Path) -> None:
        """
        Without preloading one of the workers has the port.
        """
        port = free_port()
        with self._server(tmp_path, port) as (server, own):
            answers = ask_both(own)
            pid, counted = scrape(port)

        assert answers[pid] == counted
        assert 1 == server.said.count(NOT_SHOWN)


class TestMultiprocessing:
    @pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
    def test_children(self, tmp_path: Path, method: str) -> None:
        """
        One of two children has the port; when it ends, the other one serves it.
        """
        port = free_port()
        (tmp_path / "main.py").write_text(CHILDREN.format(port=port, method=method))
        with running(tmp_path, "main.py") as program:
            program.hear("ready", 2)
            first, _ = scrape(port)
            program.tell(str(first))
            program.hear(TAKEN_OVER)
            second, counted = scrape(port)
            program.tell(str(second))
            program.hear("left 0", 2)

        pids = next(line for line in program.said.splitlines() if line.startswith("pids"))
        assert {f"{first}", f"{second}"} == set(pids.split()[1:])
        assert 1.0 == counted
        assert 1 == program.said.count(NOT_SHOWN)

    def test_child_of_the_one_that_serves(self, tmp_path: Path) -> None:
        """
        A child finds its parent at the port, which it therefore leaves alone.
        """
        (tmp_path / "main.py").write_text(
            textwrap.dedent(
                f"""
                import multiprocessing
                import harken

                def work():
                    print("child", bus.close() is not None, flush=True)

                port = {free_port()}
                bus = harken.configure(audit=False, log=False, metrics_prometheus_port=port)
                if __name__ == "__main__":
                    child = multiprocessing.get_context("spawn").Process(target=work)
                    child.start()
                    child.join()
                    print("parent", child.exitcode, flush=True)
                """
            )
        )
        with running(tmp_path, "main.py") as program:
            program.hear("parent 0")

        assert 1 == program.said.count(NOT_SHOWN)


class TestSomebodyElse:
    REFUSED = """
        import harken
        from harken.errors import MetricsServerError

        try:
            harken.configure(audit=False, log=False, metrics_prometheus_port={port})
        except MetricsServerError as error:
            print("refused:", error, flush=True)
    """

    @pytest.mark.parametrize("is_shared", [False, True])
    def test_another_program_of_ours(
        self, tmp_path: Path, shared: dict[str, str], is_shared: bool
    ) -> None:
        """
        Another program that has the port is somebody else, even when the same shell started it,
        and even when both would share the port with their own workers.
        """
        port = free_port()
        env = shared if is_shared else {}
        serve = f"import harken; harken.configure(audit=False, log=False, metrics_prometheus_port={port}); print('up', flush=True); input()"
        with running(tmp_path, "-c", serve, **env) as other:
            other.hear("up")
            with running(
                tmp_path, "-c", textwrap.dedent(self.REFUSED.format(port=port)), **env
            ) as us:
                us.hear("refused:")
                assert 0 == us.process.wait(PATIENCE)
            other.tell("")

        assert f"refused: cannot serve metrics on 127.0.0.1, port {port}" in us.said
        assert NOT_SHOWN not in us.said
