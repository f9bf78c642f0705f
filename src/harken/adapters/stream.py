"""
The event stream of any model provider, as one run: `RunRecorder`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

import msgspec

from harken import JSON, Bus, Event
from harken.adapters._runs import Run, Usage
from harken.catalog import (
    ErrorRaised,
    RunStarted,
    TextEmitted,
    ThinkingEmitted,
    ToolStarted,
)

NO_RESULT = "the stream ended without a result"

UNKNOWN_MESSAGE = "UnknownMessage"
"""The error type of what a stream has and nobody here understands."""


def derive_phase(context: Mapping[str, JSON] | None) -> str:
    """
    Return the phase of a task that a request with *context* is about.

    An explicit ``phase`` counts; else the result of an execution is there to be verified, and
    an approved option to be executed. Everything else is analysis.
    """
    if not context:
        return "analysis"
    explicit = context.get("phase")
    if isinstance(explicit, str) and explicit:
        return explicit
    if context.get("executionResult"):
        return "verification"
    return "execution" if context.get("approvedOption") else "analysis"


def judge_answer(text: str) -> str | None:
    """
    Return what is wrong with the final answer of a run; None when nothing is.

    An empty one is none, and neither is a JSON object that says ``"success": false``.
    """
    if not text.strip():
        return "the answer is empty"
    try:
        answer = msgspec.json.decode(text)
    except msgspec.DecodeError:
        return None
    if isinstance(answer, dict) and answer.get("success") is False:
        return "the answer says that it is no success"
    return None


class RunRecorder:
    """
    Publishes the events of a provider's stream as one run; ``with`` goes around the whole stream.

    Each method is named for the event that it takes; `feed()` takes all of them as mappings with
    a ``type``. Text and thinking are kept back until their block ends. On every path out of the
    block, whatever is open is closed, and the run ends with the usage known by then. No method
    raises for what the bus does. One recorder is for one run.

    Args:
        context: The request's; `derive_phase()` says which phase it is about.

        judge: Takes the final answer; returns what is wrong with it, or None.

        source: The provider or the program whose stream it is, as the events' ``source``.

        run_id: The provider's id of the run, which counts where the scope around names none.

        started:
            More fields of ``harken.catalog.RunStarted``; a ``phase`` counts more than *context*.
    """

    def __init__(
        self,
        bus: Bus,
        *,
        model: str | None = None,
        provider: str | None = None,
        context: Mapping[str, JSON] | None = None,
        judge: Callable[[str], str | None] = judge_answer,
        source: str = "stream",
        run_id: str | None = None,
        **started: Any,
    ) -> None:
        started.setdefault("phase", derive_phase(context))
        event = RunStarted(model=model, provider=provider, **started)
        self._run = Run(bus, event, source=source, run_id=run_id)
        self._judge = judge
        self._text: list[str] = []
        self._thinking: list[str] = []
        self._blocks = 0
        self._calls = 0
        # Calls without a result, in order: by the provider's id, or by their number.
        self._named: dict[str, None] = {}
        self._unnamed: deque[int] = deque()
        self._unknown: set[str] = set()
        self._has_result = False

    def __enter__(self) -> RunRecorder:
        self._run.__enter__()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._prepare_end()
        self._run.__exit__(exc_type, exc, traceback)

    def open(self) -> RunRecorder:
        """
        Begin the run without touching the current scope, where ``with`` cannot be used.
        """
        self._run.open()
        return self

    def close(self, error: BaseException | None = None) -> None:
        """
        End a run that was begun by `open()`, and whatever is open in it. Once.
        """
        self._prepare_end()
        self._run.close(error)

    def _prepare_end(self) -> None:
        self._flush()
        if not self._has_result:
            self._run.decide(NO_RESULT, outcome="unknown")

    async def __aenter__(self) -> RunRecorder:
        return self.__enter__()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.__exit__(exc_type, exc, traceback)

    @property
    def usage(self) -> Usage:
        """
        What the run has used up to now; set it whenever the provider says it.
        """
        return self._run.usage

    def feed(self, event: Mapping[str, Any]) -> None:
        """
        Take one event of the stream: a mapping with its ``type`` and the arguments of the method
        of that name. What is of no known type, or not as it should be, is on the record, too.
        """
        kind = event.get("type")
        take = _TAKERS.get(kind) if isinstance(kind, str) else None
        if take is None:
            self.unknown(f"{kind}")
            return
        arguments = {str(name): value for name, value in event.items() if name != "type"}
        try:
            take(self, **arguments)
        except (TypeError, ValueError) as error:
            self.unknown(f"{kind}", f"{error}")

    def text_delta(self, text: str) -> None:
        """
        Take a piece of what the agent says.
        """
        self._flush_thinking()
        self._text.append(text)

    def thinking_delta(self, thinking: str) -> None:
        """
        Take a piece of what the agent thinks.
        """
        self._flush_text()
        self._thinking.append(thinking)

    def content_block_stop(self) -> None:
        """
        Publish the text or thinking whose block has ended.
        """
        self._flush()

    def tool_call(
        self,
        name: str,
        input: JSON = None,
        call_id: str | None = None,
        tool_type: str = "function",
        server: str | None = None,
        parent_call_id: str | None = None,
    ) -> None:
        """
        Begin a tool call.

        Args:
            call_id: What its result will name; without one, results come in the order of calls.

            parent_call_id: The call that this one is made in, as by an agent used as a tool.
        """
        self._flush()
        self._calls += 1
        key: str | int = call_id or self._calls
        if call_id:
            self._named[call_id] = None
        else:
            self._unnamed.append(self._calls)
        started = ToolStarted(
            tool_call_id=call_id or "",
            tool_name=name,
            arguments=input,
            tool_type=tool_type,
            server=server,
        )
        self._run.begin(("tool", key), started, parent=("tool", parent_call_id))

    def tool_result(
        self,
        output: JSON = None,
        call_id: str | None = None,
        is_error: bool = False,
        outcome: str | None = None,
        error_type: str = "",
    ) -> None:
        """
        End the tool call that *call_id* names, else the oldest that is open and has no id.

        Args:
            is_error: Whether *output* says what went wrong.

            outcome: An outcome that says it more precisely than *is_error*.
        """
        self._flush()
        key = self._take_call(call_id)
        outcome = outcome or ("failure" if is_error else "success")
        if outcome in ("success", "deferred"):
            self._run.end(key, outcome=outcome, result=output)
        elif outcome == "denied":
            self._run.end(key, outcome=outcome, reason=_text_of(output))
        else:
            self._run.end(
                key, outcome=outcome, error_type=error_type, error_message=_text_of(output)
            )

    def result(
        self,
        text: str = "",
        cost_usd: float | None = None,
        input_tokens: int = 0,
        output_tokens: int = 0,
        reasoning_tokens: int = 0,
        cached_tokens: int = 0,
        success: bool | None = None,
        stop_reason: str | None = None,
        outcome: str | None = None,
    ) -> None:
        """
        Take the final answer of the run; it is judged before the run's end is published.

        Args:
            cost_usd: None, or 0.0, when nobody computed it.

            success: What the provider says about it; True is still subject to the judgement.

            outcome:
                An outcome that says it more precisely, such as ``cancelled`` or ``deferred``;
                not judged.
        """
        self._flush()
        self._has_result = True
        usage = self._run.usage
        usage.cost_usd = cost_usd or usage.cost_usd
        usage.input_tokens = input_tokens or usage.input_tokens
        usage.output_tokens = output_tokens or usage.output_tokens
        usage.reasoning_tokens = reasoning_tokens or usage.reasoning_tokens
        usage.cached_tokens = cached_tokens or usage.cached_tokens
        if outcome is not None and outcome != "success":
            names = {"cancelled": "reason", "deferred": "result"}
            self._run.decide(outcome=outcome, **{names.get(outcome, "error_message"): text})
            return
        wrong = self._judge(text) if success is not False else text or "the provider says so"
        if wrong is None:
            self._run.decide(result=text, stop_reason=stop_reason)
        else:
            self._run.decide(wrong, outcome="failure", error_type=stop_reason or "")

    def is_open(self, call_id: str) -> bool:
        """
        Whether the call that *call_id* names has no result yet.
        """
        return call_id in self._named

    def publish(self, event: Event) -> None:
        """
        Publish what else the stream tells, as part of the run.
        """
        self._run.publish(event)

    def unknown(self, kind: str, message: str = "") -> None:
        """
        Put on the record, once for each kind, that the stream has what nobody here understands.
        """
        if kind in self._unknown:
            return
        self._unknown.add(kind)
        self.publish(
            ErrorRaised(
                component="stream",
                error_type=UNKNOWN_MESSAGE,
                error_message=f"{kind}: {message or 'no such event of a stream is known'}",
                handled=True,
            )
        )

    def _take_call(self, call_id: str | None) -> tuple[str, str | int]:
        if call_id and call_id in self._named:
            self._named.pop(call_id)
            return ("tool", call_id)
        if self._unnamed:
            return ("tool", self._unnamed.popleft())
        if not call_id and self._named:
            oldest = next(iter(self._named))
            self._named.pop(oldest)
            return ("tool", oldest)
        # A result that nobody has called for is on the record as what it is.
        self.tool_call("unknown", call_id=call_id)
        return self._take_call(call_id)

    def _flush(self) -> None:
        self._flush_thinking()
        self._flush_text()

    def _flush_text(self) -> None:
        text, self._text = "".join(self._text), []
        if text:
            self._run.publish(TextEmitted(block_index=self._next_block(), text=text))

    def _flush_thinking(self) -> None:
        thinking, self._thinking = "".join(self._thinking), []
        if thinking:
            event = ThinkingEmitted(block_index=self._next_block(), thinking=thinking)
            self._run.publish(event)

    def _next_block(self) -> int:
        self._blocks += 1
        return self._blocks - 1


_TAKERS: Mapping[str, Callable[..., None]] = {
    "text_delta": RunRecorder.text_delta,
    "thinking_delta": RunRecorder.thinking_delta,
    "content_block_stop": RunRecorder.content_block_stop,
    "tool_call": RunRecorder.tool_call,
    "tool_result": RunRecorder.tool_result,
    "result": RunRecorder.result,
}


def _text_of(output: JSON) -> str:
    return output if isinstance(output, str) else msgspec.json.encode(output).decode()
