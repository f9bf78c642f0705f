"""
The demo's agent: it takes tasks from a queue, and publishes everything it does.
"""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import suppress
from pathlib import Path

import msgspec

import harken
from harken import Bus, Operation
from harken.catalog import (
    RunStarted,
    SessionStarted,
    TaskDequeued,
    TaskEnqueued,
    ToolStarted,
    TurnStarted,
)
from harken.cli._model import MODEL, PROVIDER, Answer, ContextTooLongError, Model, Usage
from harken.cli._repair import PERSON, Repair, milliseconds_since, new_id
from harken.cli._tools import AGENT, Tools

QUEUE = "books"

STORIES = (
    ("repair", "The October total is wrong. Find out why, repair it, and open a pull request."),
    ("watch", "Watch the books for changes until you are told to stop."),
    ("digest", "Sum up every booking since the firm was founded."),
)
"""The tasks in the queue, over and over: one succeeds, one is cancelled, one fails."""


class Task(msgspec.Struct, frozen=True):
    """
    What waits in the queue.

    Attributes:
        kind: The story that will be played.

        enqueued: When it was put there, on the clock of `time.monotonic()`.
    """

    id: str
    kind: str
    prompt: str
    enqueued: float


class Agent:
    """
    Plays one story after the other, in one session.

    Args:
        folder: Where it may work; empty at first.

        seed: The same seed makes the same things happen.
    """

    def __init__(self, bus: Bus, folder: Path, *, seed: int = 0) -> None:
        self._bus = bus
        self._folder = folder
        self._seed = seed
        self._session_id = new_id("session")
        self._tools = Tools(bus, folder)
        self._stopped = threading.Event()
        self._at_work = threading.Lock()

    def stop(self) -> None:
        """
        Have `work()` end as soon as it can, with everything in it cancelled; return when it has.

        Work that has not begun never will. From any other thread.
        """
        self._stopped.set()
        with self._at_work:
            pass

    def pause(self, seconds: float) -> None:
        """
        Wait for so many seconds.

        Raises:
            asyncio.CancelledError: The agent was stopped.
        """
        if self._stopped.wait(seconds):
            raise asyncio.CancelledError("the agent was stopped")

    def work(self, runs: int) -> None:
        """
        Play *runs* stories, and publish what happens.

        Raises:
            asyncio.CancelledError: The agent was stopped.
        """
        with self._at_work:
            self.pause(0)
            self._work(runs)

    def _work(self, runs: int) -> None:
        with self._scope(AGENT):
            # Not around the runs: each of them is a trace of its own.
            session = self._bus.operation(
                SessionStarted(agent_slug="bookkeeper", trigger_source="cli")
            ).start()
        try:
            tasks = [self._enqueue(number) for number in range(runs)]
            for number, task in enumerate(tasks):
                with self._scope(AGENT), harken.scope(phase="analysis"):
                    self._bus.publish(
                        TaskDequeued(
                            task_id=task.id,
                            queue=QUEUE,
                            depth=runs - number - 1,
                            wait_ms=milliseconds_since(task.enqueued),
                        )
                    )
                    self._play(task, self._seed + number)
        except BaseException as error:
            session.end(error)
            raise
        session.complete(reason="completed", runs=runs)
        session.end()

    def _scope(self, actor: str) -> harken.scope:
        return harken.scope(session_id=self._session_id, actor=actor)

    def _enqueue(self, number: int) -> Task:
        kind, prompt = STORIES[number % len(STORIES)]
        task = Task(new_id("task"), kind, prompt, time.monotonic())
        with self._scope("service:scheduler"):
            self._bus.publish(
                TaskEnqueued(task_id=task.id, queue=QUEUE, depth=number + 1, priority="normal")
            )
        return task

    def _play(self, task: Task, seed: int) -> None:
        usage = Usage()
        run = self._bus.operation(
            RunStarted(
                phase="analysis",
                provider=PROVIDER,
                model=MODEL,
                task_type=task.kind,
                trigger_source="queue",
                max_iterations=8,
                prompt=task.prompt,
                tools=self._tools.names,
            )
        )
        if task.kind == "repair":
            story = Repair(
                self._bus,
                self._folder,
                self._tools,
                usage,
                self.pause,
                prompt=task.prompt,
                seed=seed,
            )
            story.perform(run)
        elif task.kind == "watch":
            asyncio.run(self._watch(run, usage))
        else:
            with suppress(ContextTooLongError):
                self._digest(run, usage)

    async def _watch(self, run: Operation[RunStarted], usage: Usage) -> None:
        """
        Cancel the run as soon as all three of its tools are at work.
        """
        at_work = asyncio.Semaphore(0)
        watch = asyncio.create_task(self._watch_all(run, usage, at_work))
        for _ in range(3):
            await at_work.acquire()
        watch.cancel()
        await asyncio.wait([watch])

    async def _watch_all(
        self, run: Operation[RunStarted], usage: Usage, at_work: asyncio.Semaphore
    ) -> None:
        async with run:
            usage.tool_calls = 3
            run.cancel("the answer is known by now", cancelled_by=PERSON, **usage.fields())
            async with asyncio.TaskGroup() as group:
                for name in ("billing", "data", "notes"):
                    group.create_task(self._watch_folder(name, at_work))

    async def _watch_folder(self, name: str, at_work: asyncio.Semaphore) -> None:
        started = ToolStarted(
            tool_call_id=new_id("call"),
            tool_name="watch_folder",
            arguments={"path": name},
            effect="read",
        )
        async with self._bus.operation(started):
            seen: set[tuple[str, int]] = set()
            at_work.release()
            while True:
                seen |= _files_in(self._folder / name)
                await asyncio.sleep(0.01)

    def _digest(self, run: Operation[RunStarted], usage: Usage) -> None:
        """
        Give the model more to read than it can.
        """
        model = Model(self._bus, usage, self.pause, tools=len(self._tools.names))
        ledger = self._tools.read_file("data/october.csv")
        with run:
            try:
                with self._bus.operation(TurnStarted(iteration=1)):
                    usage.iterations = 1
                    model.ask(ledger * 60, Answer(text="That is a lot."))
            except ContextTooLongError:
                run.fail(**usage.fields())
                raise


def _files_in(folder: Path) -> set[tuple[str, int]]:
    return {(path.name, path.stat().st_mtime_ns) for path in folder.iterdir()}
