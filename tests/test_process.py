"""
The end of a process, and its children: nothing lost, nothing doubled, no end told twice.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

import pytest

PATIENCE = 60.0
"""Seconds until a test gives up on a process."""

# What every program of these tests imports.
PROCAPP = '''
import os

from harken import Bus, Event
from harken.catalog import ToolCompleted, ToolStarted


class Ping(Event, name="processtest.ping"):
    number: int = 0


class Lines:
    """Writes a line for each event: who writes, what, and which one."""

    def __init__(self, path, delivery="worker", pause=0.0):
        self.path = path
        self.delivery = delivery
        self.pause = pause

    def write(self, batch):
        if self.pause:
            import time

            time.sleep(self.pause)
        lines = []
        for envelope in batch:
            event = envelope.event
            assert envelope.body.startswith(b"{")
            which = getattr(event, "number", None)
            if which is None:
                which = getattr(event, "tool_call_id", None) or getattr(event, "id", None)
            outcome = envelope.outcome.value if envelope.outcome else "-"
            lines.append(f"{os.getpid()} {envelope.name} {which} {outcome}")
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, "".join(f"{line}\\n" for line in lines).encode())
        os.close(file)

    def close(self, timeout):
        file = os.open(self.path + ".closed", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, f"{os.getpid()}\\n".encode())
        os.close(file)
'''


class Line(NamedTuple):
    """
    One event that a sink has written.
    """

    pid: int
    name: str
    which: str
    outcome: str


class Folder:
    """
    The folder of one test: the programs that run there, and what they wrote.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "procapp.py").write_text(PROCAPP)

    def program(self, source: str) -> Path:
        path = self.path / "program.py"
        path.write_text(textwrap.dedent(source))
        return path

    def run(self, source: str, *, returncode: int = 0, measured: bool = True) -> str:
        """
        Run a program to its end, and return what it printed.

        Not *measured* is one that forks, since its other threads may run, or ends from within a
        signal handler: coverage has a lock in Python that the child never gets, and neither does
        whoever interrupts its holder.
        """
        measured = measured and "fork" not in source
        done = subprocess.run(
            [sys.executable, str(self.program(source))],
            cwd=self.path,
            env=_environ(measured=measured),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        if returncode != done.returncode:
            pytest.fail(f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done.stdout

    @contextmanager
    def running(
        self, *command: str, env: dict[str, str] | None = None, measured: bool = True
    ) -> Iterator[subprocess.Popen[str]]:
        """
        Run *command* in a session of its own, and see to it that nothing is left of it.

        For *measured* see `run()`.
        """
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=self.path,
            env={**_environ(measured=measured), **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(PATIENCE)
            if process.stdout is not None:
                process.stdout.close()

    def lines(self, name: str = "lines.txt") -> list[Line]:
        path = self.path / name
        if not path.exists():
            return []
        parts = (line.split(" ") for line in path.read_text().splitlines())
        return [Line(int(pid), name, which, outcome) for pid, name, which, outcome in parts]

    def pings(self) -> Counter[int]:
        return Counter(int(line.which) for line in self.lines() if line.name.endswith(".ping"))

    def closed(self) -> list[int]:
        path = self.path / "lines.txt.closed"
        return [int(pid) for pid in path.read_text().split()] if path.exists() else []


def _environ(*, measured: bool) -> dict[str, str]:
    coverage = () if measured else ("COVERAGE_PROCESS_CONFIG", "COVERAGE_PROCESS_START")
    return {name: value for name, value in os.environ.items() if name not in coverage}


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def once_each(count: int) -> Counter[int]:
    return Counter(range(count))


class TestExit:
    @pytest.mark.parametrize("delivery", ["inline", "worker", "isolated"])
    @pytest.mark.parametrize(
        ("last_words", "returncode"),
        [
            ("", 0),
            ("sys.exit(3)", 3),
            ("raise ValueError", 1),
            ("os.kill(os.getpid(), signal.SIGINT)", -signal.SIGINT),
        ],
    )
    def test_nothing_is_left_behind(
        self, folder: Folder, delivery: str, last_words: str, returncode: int
    ) -> None:
        """
        However the interpreter exits, queues are emptied, open operations end as orphaned, once,
        and sinks are closed.
        """
        folder.run(
            f"""
            import os, signal, sys
            from procapp import *

            bus = Bus()
            bus.attach(Lines("lines.txt", "{delivery}"))
            bus.operation(ToolStarted(tool_name="a", tool_call_id="forgotten")).start()
            for number in range(2000):
                bus.publish(Ping(number=number))
            {last_words}
            """,
            returncode=returncode,
        )

        assert once_each(2000) == folder.pings()
        assert [
            ("tool.started", "forgotten", "-"),
            ("tool.failed", "forgotten", "orphaned"),
            ("harken.scope_orphaned", "forgotten", "orphaned"),
        ] == [line[1:] for line in folder.lines() if not line.name.endswith(".ping")]
        assert 1 == len(folder.closed())

    def test_slow_sink(self, folder: Folder) -> None:
        """
        The exit waits for a sink that is slow.
        """
        folder.run(
            """
            from procapp import *

            bus = Bus()
            bus.attach(Lines("lines.txt", "isolated", pause=0.1))
            for number in range(1000):
                bus.publish(Ping(number=number))
            """
        )

        assert once_each(1000) == folder.pings()

    def test_threads_that_outlive_the_main_thread(self, folder: Folder) -> None:
        """
        What threads publish after the end of the main program is delivered, too.
        """
        folder.run(
            """
            import threading, time
            from procapp import *

            bus = Bus()
            bus.attach(Lines("lines.txt"))

            def run():
                threading.main_thread().join()
                for number in range(500):
                    bus.publish(Ping(number=number))

            threading.Thread(target=run).start()
            """
        )

        assert once_each(500) == folder.pings()

    def test_daemons_go_on_in_silence(self, folder: Folder) -> None:
        """
        A daemon thread that publishes until the very end breaks nothing, and each event that was
        accepted is delivered or counted.
        """
        out = folder.run(
            """
            import atexit, threading, time
            accepted = []

            def tell():
                # Whoever was in the middle of a publish has counted it before the next one.
                deadline = time.monotonic() + 30
                while bus.health().late == 0 and time.monotonic() < deadline:
                    time.sleep(0.001)
                health = bus.health()["lines"]
                print(len(accepted) == health.delivered + health.dropped, bus.health().late > 0)

            atexit.register(tell)
            from procapp import *

            bus = Bus()
            bus.attach(Lines("lines.txt"), name="lines")

            def run():
                number = 0
                while True:
                    if bus.publish(Ping(number=number)) is not None:
                        accepted.append(number)
                    number += 1
                    time.sleep(0)

            threading.Thread(target=run, daemon=True).start()
            while len(accepted) < 1000:
                time.sleep(0.001)
            threading.excepthook = lambda args: print(args.exc_value)
            """
        )

        assert "True True\n" == out
        assert once_each(len(folder.pings())) == folder.pings()

    def test_publish_after_the_close_at_exit(self, folder: Folder) -> None:
        """
        After the close at exit a publish does nothing, is counted, and nobody listens any more.
        """
        out = folder.run(
            """
            import atexit

            def afterwards():
                print(bus.publish(Ping(number=1)), bus.publish(Ping(number=2)))
                print(bus.enabled(Ping), bus.health().late)
                with bus.operation(ToolStarted(tool_name="a")) as operation:
                    operation.complete()
                print(bool(bus.flush()), bool(bus.close()))
                print(bus.publish(Ping(number=3)))

            # Before harken is imported, so that it runs after the bus was closed.
            atexit.register(afterwards)
            from procapp import *

            bus = Bus()
            bus.attach(Lines("lines.txt"))
            bus.publish(Ping(number=0))
            """
        )

        assert "None None\nFalse 2\nTrue True\nNone\n" == out
        assert once_each(1) == folder.pings()

    def test_bus_that_nobody_holds(self, folder: Folder) -> None:
        """
        A bus with a sink is closed at exit even when the program has let go of it.
        """
        folder.run(
            """
            import gc
            from procapp import *

            def main():
                bus = Bus()
                bus.attach(Lines("lines.txt", "inline"))
                bus.operation(ToolStarted(tool_name="a", tool_call_id="open")).start()

            main()
            gc.collect()
            """
        )

        assert ["tool.started", "tool.failed", "harken.scope_orphaned"] == [
            line.name for line in folder.lines()
        ]
        assert 1 == len(folder.closed())

    def test_several_buses(self, folder: Folder) -> None:
        """
        Every bus is closed, whatever happens at the close of another.
        """
        folder.run(
            """
            from procapp import *

            class Exiting(Lines):
                def close(self, timeout):
                    raise SystemExit(1)

            buses = [Bus() for _ in range(4)]
            for number, bus in enumerate(buses):
                bus.attach((Exiting if number == 1 else Lines)("lines.txt"))
                bus.publish(Ping(number=number))
            """
        )

        assert once_each(4) == folder.pings()
        assert 3 == len(folder.closed())


FORKING = """
    import os, sys, time
    from procapp import *

    bus = Bus()
    bus.attach(Lines("lines.txt", "worker"))
    bus.attach(Lines("isolated.txt", "isolated"))
    bus.attach(Lines("inline.txt", "inline"))
"""


class TestMultiprocessing:
    @pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
    @pytest.mark.parametrize("early", [True, False])
    def test_end_of_a_child(self, folder: Folder, method: str, early: bool) -> None:
        """
        At the end of a child nothing is lost or doubled; it delivers nothing of its parent's
        queue, and ends its own open operations and none of its parent's.
        """
        importing = "import multiprocessing, multiprocessing.util\n"
        folder.run(
            (importing if early else "")
            + textwrap.dedent(FORKING)
            + textwrap.dedent(
                f"""
                {importing}
                def work(start):
                    for number in range(start, start + 300):
                        bus.publish(Ping(number=number))
                    bus.operation(ToolStarted(tool_name="a", tool_call_id=str(start))).start()

                if __name__ == "__main__":
                    context = multiprocessing.get_context("{method}")
                    bus.operation(ToolStarted(tool_name="a", tool_call_id="parent")).start()
                    for number in range(200):
                        bus.publish(Ping(number=number))
                    children = [
                        context.Process(target=work, args=(start,)) for start in (200, 500, 800)
                    ]
                    for child in children:
                        child.start()
                    for child in children:
                        child.join()
                    print(os.getpid(), *(child.exitcode for child in children))
                """
            )
        )

        for name in ("lines.txt", "isolated.txt", "inline.txt"):
            lines = folder.lines(name)
            numbers = Counter(int(line.which) for line in lines if line.name.endswith(".ping"))
            assert once_each(1100) == numbers
            pids = {
                start: {
                    line.pid
                    for line in lines
                    if line.name.endswith(".ping") and start <= int(line.which) < end
                }
                for start, end in ((0, 200), (200, 500), (500, 800), (800, 1100))
            }
            assert [1, 1, 1, 1] == [len(found) for found in pids.values()]
            assert 4 == len(set.union(*pids.values()))
            ends = [line for line in lines if line.outcome == "orphaned" and "tool" in line.name]
            assert ["200", "500", "800", "parent"] == sorted(line.which for line in ends)
            (parent,) = pids[0]
            assert [parent] == [line.pid for line in ends if line.which == "parent"]
        assert 4 == len(set(folder.closed()))

    def test_bus_of_the_childs_own(self, folder: Folder) -> None:
        """
        A bus that was made in a forked child is closed at the child's end.
        """
        folder.run(
            """
            import multiprocessing
            from procapp import *

            def work():
                bus = Bus()
                bus.attach(Lines("lines.txt"))
                bus.publish(Ping(number=0))

            child = multiprocessing.get_context("fork").Process(target=work)
            child.start()
            child.join()
            """
        )

        assert once_each(1) == folder.pings()
        assert 1 == len(folder.closed())

    def test_grandchildren(self, folder: Folder) -> None:
        """
        Children of children lose nothing, either.
        """
        folder.run(
            textwrap.dedent(FORKING)
            + textwrap.dedent(
                """
                import multiprocessing
                context = multiprocessing.get_context("fork")

                def work(number):
                    bus.publish(Ping(number=number))
                    if number < 4:
                        child = context.Process(target=work, args=(number + 1,))
                        child.start()
                        child.join()

                work(0)
                """
            )
        )

        assert once_each(5) == folder.pings()
        assert 5 == len({line.pid for line in folder.lines()})

    def test_child_that_fails(self, folder: Folder) -> None:
        """
        Also a child that dies of an exception or `sys.exit()` loses nothing.
        """
        folder.run(
            textwrap.dedent(FORKING)
            + textwrap.dedent(
                """
                import multiprocessing
                context = multiprocessing.get_context("fork")

                def work(number, error):
                    bus.publish(Ping(number=number))
                    sys.stderr = None
                    with bus.operation(ToolStarted(tool_name="a", tool_call_id=str(number))):
                        raise error

                for number, error in enumerate((ValueError(), SystemExit(3), KeyboardInterrupt())):
                    child = context.Process(target=work, args=(number, error))
                    child.start()
                    child.join()
                """
            )
        )

        assert once_each(3) == folder.pings()
        assert {("0", "failure"), ("1", "failure"), ("2", "cancelled")} == {
            (line.which, line.outcome) for line in folder.lines() if line.name == "tool.failed"
        }

    @pytest.mark.parametrize("method", ["fork", "spawn"])
    def test_executor(self, folder: Folder, method: str) -> None:
        """
        What is published in the workers of a process pool is delivered when the pool ends.
        """
        folder.run(
            textwrap.dedent(FORKING)
            + textwrap.dedent(
                f"""
                import multiprocessing
                from concurrent.futures import ProcessPoolExecutor

                def work(number):
                    bus.publish(Ping(number=number))

                if __name__ == "__main__":
                    context = multiprocessing.get_context("{method}")
                    with ProcessPoolExecutor(2, mp_context=context) as pool:
                        list(pool.map(work, range(100)))
                """
            )
        )

        assert once_each(100) == folder.pings()


class TestFork:
    def test_end_of_a_child(self, folder: Folder) -> None:
        """
        A child of `os.fork()` that exits loses nothing and delivers nothing of its parent's.
        """
        out = folder.run(
            textwrap.dedent(FORKING)
            + textwrap.dedent(
                """
                bus.operation(ToolStarted(tool_name="a", tool_call_id="parent")).start()
                for number in range(100):
                    bus.publish(Ping(number=number))
                print(os.getpid(), flush=True)
                if os.fork() == 0:
                    for number in range(100, 200):
                        bus.publish(Ping(number=number))
                    bus.operation(ToolStarted(tool_name="a", tool_call_id="child")).start()
                    sys.exit()
                os.wait()
                """
            )
        )

        parent = int(out)
        for name in ("lines.txt", "isolated.txt", "inline.txt"):
            numbers = {
                (line.pid == parent, int(line.which))
                for line in folder.lines(name)
                if line.name.endswith(".ping")
            }
            assert {(number < 100, number) for number in range(200)} == numbers
            ends = [line for line in folder.lines(name) if line.name == "tool.failed"]
            assert [(False, "child"), (True, "parent")] == sorted(
                (line.pid == parent, line.which) for line in ends
            )
        assert once_each(200) == folder.pings()

    @pytest.mark.parametrize("block", ["with", "callbacks"])
    def test_inside_an_operation(self, folder: Folder, block: str) -> None:
        """
        A child that was forked inside an operation does not end it; its parent does.
        """
        out = folder.run(
            textwrap.dedent(FORKING)
            + {
                "with": textwrap.dedent(
                    """
                    with bus.operation(ToolStarted(tool_name="a", tool_call_id="parent")):
                        if os.fork() == 0:
                            bus.publish(Ping(number=0))
                            sys.exit()
                        os.wait()
                    print(os.getpid())
                    """
                ),
                "callbacks": textwrap.dedent(
                    """
                    operation = bus.operation(ToolStarted(tool_name="a", tool_call_id="parent"))
                    operation.start()
                    child = os.fork() == 0
                    if child:
                        bus.publish(Ping(number=0))
                    else:
                        os.wait()
                    operation.end()
                    if not child:
                        print(os.getpid())
                    """
                ),
            }[block]
        )

        ends = [line for line in folder.lines("inline.txt") if line.name == "tool.completed"]
        assert [int(out)] == [line.pid for line in ends]
        assert once_each(1) == folder.pings()

    def test_closed_bus(self, folder: Folder) -> None:
        """
        The child of a process whose bus is closed waits for nothing.
        """
        out = folder.run(
            textwrap.dedent(FORKING)
            + textwrap.dedent(
                """
                import signal

                bus.publish(Ping(number=0))
                bus.close()
                if os.fork() == 0:
                    signal.alarm(2)
                    report = bus.close(timeout=30)
                    os._exit(0 if report else 1)
                print(os.wait()[1])
                """
            )
        )

        assert "0\n" == out

    def test_sink_that_fails_in_the_child(self, folder: Folder) -> None:
        """
        A sink whose `after_fork()` raises harms no other sink, and no other bus.
        """
        folder.run(
            """
            import os, sys
            from procapp import *

            class Failing(Lines):
                def after_fork(self):
                    raise OSError("no more files")

            class Renewed(Lines):
                def after_fork(self):
                    self.path = "lines.txt"

            buses = [Bus(), Bus()]
            for bus in buses:
                bus.attach(Failing("failing.txt"), name="failing")
                bus.attach(Renewed("parent.txt"))
            if os.fork() == 0:
                for number, bus in enumerate(buses):
                    bus.publish(Ping(number=number))
                errors = [dict(bus.health()["failing"].errors) for bus in buses]
                sys.exit(0 if errors == [{"OSError": 1}] * 2 else 1)
            sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
            """
        )

        assert once_each(2) == folder.pings()

    def test_drops_are_told_by_who_dropped(self, folder: Folder) -> None:
        """
        What was dropped before a fork is told by the parent, not by the child as well.
        """
        out = folder.run(
            """
            import os, sys, threading
            from procapp import *
            from harken.catalog import EventsDropped

            class Stuck:
                delivery = "isolated"
                gate = threading.Event()
                entered = threading.Event()

                def write(self, batch):
                    self.entered.set()
                    self.gate.wait()

            def told(envelope):
                print(envelope.event.count, os.getpid() == parent, flush=True)

            parent = os.getpid()
            bus = Bus()
            bus.attach(Stuck(), Ping, capacity=1)
            bus.subscribe(told, EventsDropped)
            bus.publish(Ping())
            Stuck.entered.wait()
            for _ in range(4):
                bus.publish(Ping())
            if os.fork() == 0:
                Stuck.gate.set()
                bus.publish(Ping())
                sys.exit()
            os.wait()
            Stuck.gate.set()
            """
        )

        assert "3 True\n" == out

    def test_counts_of_the_child(self, folder: Folder) -> None:
        """
        A child counts what it published itself, so that nothing is counted by two processes.
        """
        out = folder.run(
            """
            import os
            from procapp import *

            bus = Bus()
            bus.subscribe(lambda envelope: None)
            bus.publish(Ping())
            child = os.fork() == 0
            bus.publish(Ping())
            if not child:
                os.wait()
            os.write(1, f"{sum(bus.health().published.values())}\\n".encode())
            """
        )

        assert "1\n2\n" == out

    def test_ids_of_the_child(self, folder: Folder) -> None:
        """
        No event of a child has the id, the span or the key of one of its parent's.
        """
        out = folder.run(
            """
            import os, sys
            from procapp import *

            bus = Bus()

            def tell(envelope):
                key = getattr(envelope.event, "tool_call_id", None)
                os.write(1, f"{envelope.id} {envelope.span_id} {key}\\n".encode())

            bus.subscribe(tell)
            bus.publish(Ping())
            child = os.fork() == 0
            for _ in range(50):
                bus.publish(Ping())
            bus.operation(ToolStarted(tool_name="a")).start()
            if not child:
                os.wait()
            """
        )

        ids, spans, keys = zip(*(line.split() for line in out.splitlines()), strict=True)
        assert len(ids) == len(set(ids))
        # The orphan's end has the span of its start, and the report of it one of its own.
        assert 1 + 2 * (50 + 1 + 1) == len(set(spans))
        assert 2 == len(set(keys) - {"None"})

    def test_of_a_closed_bus(self, folder: Folder) -> None:
        """
        A bus that was closed before the fork is closed in the child.
        """
        printed = folder.run(
            """
            from procapp import *

            bus = Bus()
            bus.subscribe(print, Ping)
            bus.close()
            child = os.fork() == 0
            os.write(1, f"{bus.enabled(Ping)} {bus!r}\\n".encode())
            if not child:
                os.wait()
            """
        )

        assert ["False <Bus closed, 1 subscribers>"] * 2 == printed.splitlines()

    def test_inside_a_handler(self, folder: Folder) -> None:
        """
        A handler or an inline sink that forks leaves a child whose bus works.
        """
        folder.run(
            textwrap.dedent(FORKING)
            + textwrap.dedent(
                """
                def fork():
                    if os.fork() == 0:
                        bus.publish(Ping(number=2))
                        bus.publish(Ping(number=3))
                        sys.exit(0 if bus.flush() else 1)
                    assert os.waitstatus_to_exitcode(os.wait()[1]) == 0

                class Forking:
                    delivery = "inline"

                    def write(self, batch):
                        if batch[0].event.number == 0:
                            fork()

                bus.attach(Forking(), Ping)
                bus.publish(Ping(number=0))
                """
            )
        )

        assert Counter({0: 1, 2: 1, 3: 1}) == folder.pings()

    def test_while_others_publish(self, folder: Folder) -> None:
        """
        A child that is forked while other threads publish, from the first event on, has its own
        events written and ends.
        """
        printed = folder.run(
            """
            import sys, threading
            from procapp import *

            bus = Bus()
            bus.attach(Lines("lines.txt"))
            bus.attach(Lines("inline.txt", "inline"))
            over = False

            def run():
                while not over:
                    bus.publish(Ping(number=-1))

            threads = [threading.Thread(target=run) for _ in range(3)]
            for thread in threads:
                thread.start()
            for number in range(25):
                if os.fork() == 0:
                    bus.publish(Ping(number=number))
                    with bus.operation(ToolStarted(tool_name="search", tool_call_id=f"{number}")):
                        pass
                    bus.subscribe(print, ToolStarted).cancel()
                    sys.exit(0 if bus.close() else 1)
                print(os.wait()[1])
            over = True
            for thread in threads:
                thread.join()
            """
        )

        assert ["0"] * 25 == printed.split()
        for name in ("lines.txt", "inline.txt"):
            lines = folder.lines(name)
            own = Counter(line.which for line in lines if line.which != "-1")
            assert {f"{number}": 3 for number in range(25)} == own


class TestSigterm:
    def test_loses_nothing(self, folder: Folder) -> None:
        """
        With `close_on_sigterm` a terminated process exits as usual: everything that was accepted
        is delivered, blocks end as cancelled, and what was forgotten as orphaned.
        """
        program = folder.program(
            """
            import harken
            from procapp import *

            bus = harken.configure(audit=False, metrics=False, log=False, close_on_sigterm=True)
            bus.attach(Lines("lines.txt"), overflow="block")
            bus.operation(ToolStarted(tool_name="a", tool_call_id="forgotten")).start()
            number = 0
            try:
                with bus.operation(ToolStarted(tool_name="a", tool_call_id="block")):
                    while True:
                        if bus.publish(Ping(number=number)):
                            number += 1
                        if number == 1000:
                            print("running", flush=True)
            finally:
                print(number)
            """
        )
        with folder.running(str(program), measured=False) as process:
            assert process.stdout is not None
            assert "running\n" == process.stdout.readline()
            process.send_signal(signal.SIGTERM)
            accepted = int(process.stdout.readline())
            assert 143 == process.wait(PATIENCE)

        pings = folder.pings()
        # The one that was being published has perhaps arrived, perhaps not.
        assert pings in (once_each(accepted), once_each(accepted + 1))
        assert [
            ("tool.failed", "block", "cancelled"),
            ("tool.failed", "forgotten", "orphaned"),
        ] == [line[1:] for line in folder.lines() if line.name == "tool.failed"]
        assert 1 == len(folder.closed())

    def test_of_a_child(self, folder: Folder) -> None:
        """
        A forked child that is terminated loses nothing, either.
        """
        folder.run(
            """
            import multiprocessing, os, time
            import harken
            from procapp import *

            bus = harken.configure(audit=False, metrics=False, log=False, close_on_sigterm=True)
            bus.attach(Lines("lines.txt"))

            def work(ready):
                for number in range(500):
                    bus.publish(Ping(number=number))
                ready.set()
                time.sleep(60)

            context = multiprocessing.get_context("fork")
            ready = context.Event()
            child = context.Process(target=work, args=(ready,))
            child.start()
            ready.wait()
            child.terminate()
            child.join()
            raise SystemExit(0 if child.exitcode == 143 else child.exitcode)
            """,
            measured=False,
        )

        assert once_each(500) == folder.pings()


class TestServers:
    """
    Each request publishes an event; the server is terminated while the last are in the queue.
    """

    REQUESTS = 40

    def test_uvicorn_with_two_workers(self, folder: Folder) -> None:
        """
        An application that closes its bus in the lifespan loses nothing in any worker.
        """
        (folder.path / "app.py").write_text(
            textwrap.dedent(
                """
                from procapp import *

                bus = Bus()
                bus.attach(Lines("lines.txt"))

                async def application(scope, receive, send):
                    if scope["type"] == "lifespan":
                        await receive()
                        await send({"type": "lifespan.startup.complete"})
                        await receive()
                        await bus.aclose()
                        await send({"type": "lifespan.shutdown.complete"})
                        return
                    bus.publish(Ping(number=int(scope["path"][1:])))
                    headers = [(b"connection", b"close")]
                    await send({"type": "http.response.start", "status": 200, "headers": headers})
                    await send({"type": "http.response.body", "body": b"%d" % os.getpid()})
                """
            )
        )
        command = ("-m", "uvicorn", "app:application", "--workers", "2", "--port", "0")
        with folder.running(*command) as server:
            pids = self._ask(self._port(server.stdout, "Application startup complete", 2))
            server.send_signal(signal.SIGTERM)
            server.wait(PATIENCE)

        assert once_each(self.REQUESTS) == folder.pings()
        assert pids <= set(folder.closed())

    def test_gunicorn_with_preload(self, folder: Folder) -> None:
        """
        Workers that were forked from a preloaded application lose nothing, and deliver nothing
        of what the application published before the fork.
        """
        (folder.path / "app.py").write_text(
            textwrap.dedent(
                """
                from procapp import *

                bus = Bus()
                bus.attach(Lines("lines.txt"))
                bus.operation(ToolStarted(tool_name="a", tool_call_id="master")).start()
                bus.publish(Ping(number=40))

                def application(environ, start_response):
                    bus.publish(Ping(number=int(environ["PATH_INFO"][1:])))
                    start_response("200 OK", [("Content-Type", "text/plain")])
                    return [b"%d" % os.getpid()]
                """
            )
        )
        command = ("-m", "gunicorn", "app:application", "--preload", "--workers", "2")
        with folder.running(*command, "--bind", "127.0.0.1:0", "--no-control-socket") as server:
            pids = self._ask(self._port(server.stdout, "Booting worker", 2))
            server.send_signal(signal.SIGTERM)
            server.wait(PATIENCE)

        assert once_each(self.REQUESTS + 1) == folder.pings()
        assert pids <= set(folder.closed())
        assert [server.pid] == [line.pid for line in folder.lines() if line.which == "40"]
        assert [(server.pid, "orphaned")] == [
            (line.pid, line.outcome) for line in folder.lines() if line.name == "tool.failed"
        ]

    @staticmethod
    def _port(log: IO[str] | None, ready: str, times: int) -> int:
        """
        Read the server's log until it has said *ready* so many times; return its port.
        """
        assert log is not None
        seen: list[str] = []
        port = None
        for line in log:
            seen.append(line)
            times -= ready in line
            found = re.search(r"http://127\.0\.0\.1:(\d+)", line)
            port = int(found[1]) if found else port
            if port is not None and times <= 0:
                # Nobody else reads what it has to say from now on.
                threading.Thread(target=log.read, daemon=True).start()
                return port
        pytest.fail("the server did not start\n" + "".join(seen))

    def _ask(self, port: int) -> set[int]:
        def get(number: int) -> int:
            url = f"http://127.0.0.1:{port}/{number}"
            with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
                return int(answer.read())

        with ThreadPoolExecutor(4) as pool:
            return set(pool.map(get, range(self.REQUESTS)))
