"""
The demo's agent: a small framework on a bus, and the story of a bookkeeper that it plays.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta, timezone
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec

import harken
from harken import JSON, Bus, Operation
from harken.catalog import (
    AgentStarted,
    ApprovalGranted,
    ApprovalRequested,
    BudgetWarning,
    ContextAssembled,
    CredentialIssued,
    DecisionCreated,
    ErrorRaised,
    GuardEvaluated,
    GuardViolated,
    HumanInputReceived,
    HumanInputRequested,
    PhaseStarted,
    PipelineCompleted,
    PipelineTriggered,
    PlanCreated,
    PlanStepStarted,
    PolicyEvaluated,
    PrCreated,
    RepoCloned,
    RunStarted,
    SessionStarted,
    TaskDequeued,
    TaskEnqueued,
    ToolRetried,
    ToolStarted,
    TurnStarted,
    ValidationStarted,
)
from harken.cli._books import BUG, REPAIR, lay_out
from harken.cli._model import (
    MAX_CONTEXT,
    MODEL,
    PROVIDER,
    Answer,
    Model,
    ModelError,
    Usage,
    tokens_of,
)
from harken.cli._tools import PYTHON, Tools, digest_of, ruling_on

ACTOR = "agent:bookkeeper"
PERSON = "user:ana"
QUEUE = "books"
TOKEN_BUDGET = 1_500

# Seconds that a person takes to answer, and that a program may take that never ends.
_THINKING_TIME = 0.02
_PATIENCE = 0.25


class Task(msgspec.Struct, frozen=True):
    """
    What waits in the queue: the words of a task, and the way it will go.
    """

    id: str
    kind: str
    prompt: str
    enqueued: float


class Agent:
    """
    Does what is in its queue, one run after the other, and publishes everything it does.

    Args:
        folder: Where it may work; empty at first.

        seed: The same seed makes the same things happen.
    """

    def __init__(self, bus: Bus, folder: Path, *, seed: int = 0) -> None:
        self._bus = bus
        self._folder = folder
        self._seed = seed
        self._session_id = _new_id("session")
        self._tools = Tools(bus, folder)

    def work(self, runs: int) -> None:
        """
        Work through *runs* tasks in one session: one that succeeds, one that is cancelled while
        three tools run, one that fails, and so on.
        """
        with self._scope():
            # Not around the runs: each of them is a trace of its own.
            session = self._bus.operation(
                SessionStarted(agent_slug="bookkeeper", trigger_source="cli")
            ).start()
        try:
            for task in self._queue(runs):
                self._run(task)
        except BaseException as error:
            session.end(error)
            raise
        session.complete(reason="completed", runs=runs)
        session.end()

    def _scope(self, actor: str = ACTOR) -> harken.scope:
        return harken.scope(session_id=self._session_id, actor=actor)

    def _queue(self, runs: int) -> Iterator[Task]:
        stories = (
            ("repair", "The October total is wrong. Find out why, repair it, open a pull request."),
            ("watch", "Watch the books for changes until you are told to stop."),
            ("digest", "Sum up every booking since the firm was founded."),
        )
        waiting: deque[Task] = deque()
        for number in range(runs):
            kind, prompt = stories[number % len(stories)]
            task = Task(_new_id("task"), kind, prompt, time.monotonic())
            waiting.append(task)
            with self._scope("service:scheduler"):
                self._bus.publish(
                    TaskEnqueued(task_id=task.id, queue=QUEUE, depth=len(waiting), priority="normal")
                )
        while waiting:
            yield waiting.popleft()

    def _run(self, task: Task) -> None:
        usage = Usage()
        with self._scope(), harken.scope(phase="analysis"):
            self._bus.publish(
                TaskDequeued(task_id=task.id, queue=QUEUE, wait_ms=_ms_since(task.enqueued))
            )
            started = RunStarted(
                phase="analysis",
                provider=PROVIDER,
                model=MODEL,
                task_type=task.kind,
                trigger_source="queue",
                max_iterations=8,
                prompt=task.prompt,
                tools=self._tools.names,
            )
            run = self._bus.operation(started)
            match task.kind:
                case "repair":
                    Repair(self._bus, self._folder, self._tools, usage, self._seed).perform(run)
                case "watch":
                    asyncio.run(self._watch(run, usage))
                case _:
                    with suppress(ModelError):
                        self._digest(run, usage)

    async def _watch(self, run: Operation[RunStarted], usage: Usage) -> None:
        """
        Start watching, and be cancelled as soon as all three tools are at it.
        """
        watching = asyncio.Semaphore(0)
        work = asyncio.create_task(self._watch_until_cancelled(run, usage, watching))
        for _ in range(3):
            await watching.acquire()
        work.cancel()
        with suppress(asyncio.CancelledError):
            await work

    async def _watch_until_cancelled(
        self, run: Operation[RunStarted], usage: Usage, watching: asyncio.Semaphore
    ) -> None:
        async with run:
            usage.iterations = usage.tool_calls = 3
            run.cancel("the person who asked lost interest", cancelled_by=PERSON, **usage.fields())
            async with asyncio.TaskGroup() as group:
                for path in ("data", "billing", "notes"):
                    group.create_task(self._watch_folder(path, watching))

    async def _watch_folder(self, path: str, watching: asyncio.Semaphore) -> None:
        arguments: dict[str, JSON] = {"path": path}
        async with self._bus.operation(
            ToolStarted(tool_name="watch", arguments=arguments, effect="read")
        ):
            before = _changes(self._folder / path)
            watching.release()
            while _changes(self._folder / path) == before:
                await asyncio.sleep(0.01)

    def _digest(self, run: Operation[RunStarted], usage: Usage) -> None:
        """
        Give the model more than it can read.
        """
        model = Model(self._bus, usage, tools=len(self._tools.names))
        with run:
            try:
                with self._bus.operation(TurnStarted(iteration=1)):
                    usage.iterations = 1
                    ledger = str(self._tools.read_file("data/october.csv"))
                    model.ask(ledger * 40, Answer(text="That is a lot."))
            finally:
                run.fail(**usage.fields())
