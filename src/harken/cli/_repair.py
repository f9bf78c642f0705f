"""
The demo's main story: a run that looks, plans, asks, repairs and verifies.
"""

from __future__ import annotations

import json
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

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
    ToolRetried,
    ToolStarted,
    TurnStarted,
    ValidationStarted,
)
from harken.cli._books import BUG, REPAIR, TOTAL, lay_out, secret_of
from harken.cli._model import MAX_CONTEXT, Answer, Model, Pause, Usage, tokens_of
from harken.cli._tools import AGENT, PYTHON, Tools, digest_of, ruling_on

PERSON = "user:ana"
"""Who answers the agent."""

TOKEN_BUDGET = 2_000
WARN_AT = 0.8 * TOKEN_BUDGET

# Seconds: how long a person takes to answer, and how long a program may take that never ends.
_THINKING_TIME = 0.02
_PATIENCE = 0.25


def new_id(kind: str) -> str:
    """
    Return an id that no other thing has.
    """
    return f"{kind}-{uuid4().hex[:12]}"


def milliseconds_since(began: float) -> int:
    """
    Return the milliseconds from *began*, on the clock of `time.monotonic()`, until now.
    """
    return round((time.monotonic() - began) * 1000)


class Repair:
    """
    One run of it.

    Args:
        folder: Where the books are laid out, and repaired.

        pause: Called with the seconds to wait for.

        seed: The same seed makes the same books.
    """

    def __init__(
        self,
        bus: Bus,
        folder: Path,
        tools: Tools,
        usage: Usage,
        pause: Pause,
        *,
        prompt: str,
        seed: int,
    ) -> None:
        self._bus = bus
        self._folder = folder
        self._tools = tools
        self._usage = usage
        self._pause = pause
        self._seed = seed
        self._model = Model(bus, usage, pause, tools=len(tools.names))
        self._conversation = [prompt]

    def perform(self, run: Operation[RunStarted]) -> None:
        """
        Play the story inside of *run*.
        """
        with run:
            try:
                self._clone()
                self._look()
                self._check()
                with harken.scope(phase="execution"):
                    self._repair()
                with harken.scope(phase="verification"):
                    self._verify()
                    answer = self._report()
            except BaseException:
                # What was used up to here belongs to the failure.
                run.fail(**self._usage.fields())
                raise
            run.complete(**self._usage.fields(), stop_reason="end_turn", result=answer)

    def _clone(self) -> None:
        began = time.monotonic()
        with self._bus.operation(PhaseStarted(phase="repo_clone")):
            size = lay_out(self._folder, self._seed)
            self._bus.publish(
                RepoCloned(
                    repo="books", ref="main", size=size, duration_ms=milliseconds_since(began)
                )
            )

    def _look(self) -> None:
        thinking = "The total may add up the wrong rows. I need the program and what it reads."
        text = "I will read the program, look for where the state is used, and read the bookings."
        with self._turn(1):
            tools = ("read_file", "search", "read_file")
            self._ask(Answer(thinking=thinking, text=text, tools=tools), overloaded=1)
            # All three at once; the last one has a slip of the pen in it.
            self._call_all(
                ("read_file", {"path": "billing/total.py"}),
                ("search", {"pattern": "state"}),
                ("read_file", {"path": "data/oktober.csv"}),
            )

    def _check(self) -> None:
        text = "October has a c. I will read it again, and run the check."
        with self._turn(2):
            self._ask(Answer(text=text, tools=("read_file", "read_file", "run_command")))
            for path in ("data/october.csv", "notes/todo.txt"):
                self._guard(str(self._call("read_file", {"path": path})))
            self._load_index()
            self._validate()

    def _repair(self) -> None:
        thinking = "It adds up what is paid. What customers owe is what is open."
        text = "I will change one word, check it, and tidy up."
        tools = ("write_file", "run_command", "run_command", "run_command")
        with self._turn(3):
            self._ask(Answer(thinking=thinking, text=text, tools=tools))
            question = "Which of the two is wrong, the program or the check?"
            self._bus.publish(
                DecisionCreated(
                    decision_id=new_id("decision"),
                    question=question,
                    chosen="the program",
                    alternatives=1,
                )
            )
            with self._bus.operation(PlanCreated(steps=3)) as plan:
                plan_id = plan.event.plan_id
                with self._step(plan_id, 1, "repair the total"):
                    repaired = TOTAL.replace(BUG, REPAIR)
                    self._call("write_file", {"path": "billing/total.py", "text": repaired})
                with self._step(plan_id, 2, "check it"):
                    self._validate()
                with self._step(plan_id, 3, "tidy up"):
                    sleeper = [*PYTHON, "-c", "import time; time.sleep(60)"]
                    with suppress(TimeoutError):
                        self._call("run_command", {"argv": sleeper, "timeout": _PATIENCE})
                    self._call("run_command", {"argv": ["rm", "-r", "cache"]})
                plan.complete(project="books", files_changed=1, validation_summary="1 check passed")

    def _verify(self) -> None:
        text = "Before anybody else sees it, a second pair of eyes should."
        with self._turn(4):
            self._ask(Answer(text=text, tools=("read_file", "open_pull_request")))
            reviewer = AgentStarted(
                agent_id="reviewer", agent_name="Reviewer", parent_agent_id="bookkeeper"
            )
            with harken.scope(actor="agent:reviewer"), self._bus.operation(reviewer):
                self._call("read_file", {"path": "billing/total.py"})
            self._ask_person("Shall the pull request go to main?")
            self._open_pull_request()
            self._await_pipeline()

    def _report(self) -> str:
        answer = "The total counted what was paid; now it counts what is open. The check passes."
        with self._turn(5):
            self._ask(Answer(text=answer))
        return answer

    @contextmanager
    def _turn(self, iteration: int) -> Generator[None]:
        usage = self._usage
        read, written = usage.input_tokens, usage.output_tokens
        usage.iterations = iteration
        with self._bus.operation(TurnStarted(iteration=iteration)) as turn:
            yield
            turn.complete(
                input_tokens=usage.input_tokens - read, output_tokens=usage.output_tokens - written
            )

    @contextmanager
    def _step(self, plan_id: str, number: int, description: str) -> Generator[None]:
        step = PlanStepStarted(plan_id=plan_id, step_number=number, step_description=description)
        with self._bus.operation(step):
            yield

    def _ask(self, answer: Answer, *, overloaded: int = 0) -> None:
        before = self._usage.tokens
        self._model.ask(self._context(), answer, overloaded=overloaded)
        self._conversation.append(answer.text)
        used = self._usage.tokens
        if before <= WARN_AT < used:
            self._bus.publish(
                BudgetWarning(
                    budget_type="tokens",
                    limit=TOKEN_BUDGET,
                    used=used,
                    unit="tokens",
                    utilization=used / TOKEN_BUDGET,
                )
            )

    def _context(self) -> str:
        began = time.monotonic()
        text = "\n".join(self._conversation)
        used = tokens_of(text)
        self._bus.publish(
            ContextAssembled(
                fragments=len(self._conversation),
                tokens_used=used,
                token_budget=MAX_CONTEXT,
                budget_utilization=used / MAX_CONTEXT,
                tier="hot",
                strategy="everything",
                context_hash=digest_of(text.encode()),
                duration_ms=milliseconds_since(began),
            )
        )
        return text

    def _call_all(self, *calls: tuple[str, dict[str, JSON]]) -> None:
        with ThreadPoolExecutor(max_workers=len(calls)) as pool:
            # Each call in a thread of its own, and all of them in the scope of this turn.
            answers = [pool.submit(harken.bind(self._call), name, given) for name, given in calls]
        for answer in answers:
            with suppress(FileNotFoundError):
                answer.result()

    def _call(self, name: str, arguments: dict[str, JSON], *, attempt: int = 1) -> JSON:
        """
        Call a tool, if the policy allows it; return what it returns, None when it was denied.
        """
        self._usage.tool_calls += 1
        ruling = ruling_on(name, arguments)
        started = ToolStarted(
            tool_call_id=new_id("call"),
            tool_name=name,
            tool_type="builtin",
            arguments=arguments,
            effect="read" if name in ("read_file", "search") else "write",
            attempt=attempt,
        )
        with self._bus.operation(started) as tool:
            self._bus.publish(
                PolicyEvaluated(
                    policy_id="workspace",
                    policy_version="3",
                    rule=ruling.rule,
                    subject=started.tool_call_id,
                    decision=ruling.decision,
                    reason=ruling.reason,
                )
            )
            if ruling.decision == "deny":
                tool.deny(ruling.reason, rule=ruling.rule, decided_by="policy")
                return None
            if ruling.decision == "escalate":
                self._ask_approval(started.tool_call_id, f"May the agent call {name}?")
            result = self._tools[name](**arguments)
            tool.complete(result=result)
        self._conversation.append(f"{name}: {result}")
        return result

    def _ask_approval(self, subject: str, prompt: str) -> None:
        approval_id, asked = new_id("approval"), time.monotonic()
        self._bus.publish(
            ApprovalRequested(
                approval_id=approval_id,
                subject=subject,
                prompt=prompt,
                expires_at=datetime.now(UTC) + timedelta(hours=1),
            )
        )
        self._pause(_THINKING_TIME)
        with harken.scope(actor=PERSON):
            self._bus.publish(
                ApprovalGranted(
                    approval_id=approval_id, approver=PERSON, wait_ms=milliseconds_since(asked)
                )
            )

    def _ask_person(self, question: str) -> None:
        request_id, asked = new_id("question"), time.monotonic()
        self._bus.publish(
            HumanInputRequested(request_id=request_id, question=question, choices=2, timeout_s=60)
        )
        self._pause(_THINKING_TIME)
        with harken.scope(actor=PERSON):
            self._bus.publish(
                HumanInputReceived(
                    request_id=request_id,
                    responder=PERSON,
                    response="yes",
                    wait_ms=milliseconds_since(asked),
                )
            )

    def _guard(self, text: str) -> None:
        began = time.monotonic()
        passed = "ignore all previous instructions" not in text.lower()
        self._bus.publish(
            GuardEvaluated(
                guard_name="prompt-injection",
                stage="tool",
                passed=passed,
                duration_ms=milliseconds_since(began),
            )
        )
        if not passed:
            self._conversation.remove(f"read_file: {text}")
            self._bus.publish(
                GuardViolated(
                    guard_name="prompt-injection",
                    stage="tool",
                    severity="warn",
                    action_taken="withheld",
                    reason="a note gives orders to the model",
                    evidence_digest=digest_of(text.encode()),
                )
            )

    def _load_index(self) -> None:
        path = self._folder / "cache" / "index.json"
        try:
            json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            self._bus.publish(
                ErrorRaised(
                    component="index",
                    error_type=type(error).__name__,
                    error_message=str(error),
                    handled=True,
                    fingerprint="index-unreadable",
                )
            )

    def _validate(self) -> None:
        validation = ValidationStarted(validator="check_total", target="billing/total.py")
        with self._bus.operation(validation) as check:
            done = self._call("run_command", {"argv": [*PYTHON, "checks/check_total.py"]})
            if done["exit_code"] == 0:
                check.complete(checks=1)
            else:
                check.fail(failures=1)

    def _open_pull_request(self) -> None:
        with harken.scope(actor="service:vault"):
            self._bus.publish(
                CredentialIssued(
                    credential_id=new_id("credential"),
                    scope="pull_request:write",
                    integration="forge",
                    ttl_s=900,
                    expires_at=datetime.now(UTC) + timedelta(seconds=900),
                    issued_to=AGENT,
                )
            )
        # The secret itself goes to the tool, and from there into no file.
        arguments = {"title": "Count what is open", "token": secret_of(self._seed)}
        try:
            url = self._call("open_pull_request", arguments)
        except ConnectionError as error:
            self._bus.publish(
                ToolRetried(tool_name="open_pull_request", attempt=2, cause=type(error).__name__)
            )
            url = self._call("open_pull_request", arguments, attempt=2)
        self._bus.publish(
            PrCreated(
                url=url,
                repo="books",
                branch="repair-total",
                base="main",
                files_changed=1,
                additions=1,
                deletions=1,
            )
        )

    def _await_pipeline(self) -> None:
        pipeline_id, began = new_id("pipeline"), time.monotonic()
        self._bus.publish(PipelineTriggered(pipeline_id=pipeline_id, kind="test"))
        with self._bus.operation(PhaseStarted(phase="pipeline_wait")):
            self._pause(_THINKING_TIME)
        self._bus.publish(
            PipelineCompleted(
                pipeline_id=pipeline_id,
                outcome="success",
                duration_ms=milliseconds_since(began),
            )
        )
