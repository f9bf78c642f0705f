"""
The OpenAI Agents SDK: hooks for a run, and calls of the runner that end the run on every path.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import AsyncGenerator, Collection, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar
from typing import Any

from agents import (
    Agent,
    FunctionTool,
    InputGuardrailTripwireTriggered,
    MaxTurnsExceeded,
    ModelResponse,
    OutputGuardrailTripwireTriggered,
    RunContextWrapper,
    RunHooks,
    Runner,
    RunResult,
    RunResultStreaming,
    RunState,
    Tool,
    ToolApprovalItem,
    ToolInputGuardrailTripwireTriggered,
    ToolOutputGuardrailTripwireTriggered,
    ToolTimeoutError,
    Usage,
    __version__,
)
from agents.tool import default_tool_error_function, default_tool_timeout_error_message
from agents.tool_context import ToolContext
from agents.tracing import Span, SpanError, get_current_span

from harken import Bus
from harken.adapters._runs import Run, contained, parsed
from harken.catalog import (
    AgentHandoff,
    AgentStarted,
    ApprovalDenied,
    ApprovalGranted,
    ApprovalRequested,
    BudgetExceeded,
    GuardViolated,
    LlmStarted,
    RunPaused,
    RunResumed,
    RunStarted,
    ToolStarted,
    TurnStarted,
)

SOURCE = f"openai-agents/{__version__}"

_GUARDS = (
    InputGuardrailTripwireTriggered,
    OutputGuardrailTripwireTriggered,
    ToolInputGuardrailTripwireTriggered,
    ToolOutputGuardrailTripwireTriggered,
)

Key = tuple[str, ...]

_current: ContextVar[_Ledger | None] = ContextVar("harken.adapters.openai_agents", default=None)


class _Ledger:
    """
    What the SDK's hooks say about one run, with the runs of agents that it uses as tools.

    The outer tool call tells nested agents apart; the hooks name it when a model is called, and
    the SDK's span of the turn carries it to the hooks that do not.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        # The id of the one object that all contexts of the run share; known at its first hook.
        self.usage_id: int | None = None
        # From the id of a nested turn's span to the outer call that the turn is inside of.
        self._outer_of_turn: dict[str, str] = {}
        self._tools: dict[Key, tuple[float, Tool, Span[Any] | None]] = {}
        self._tool_of_call: dict[str, Key] = {}
        # How often the model was asked, outside of nested agents.
        self._turns = 0
        # What a run that was paused for approvals waits for, by the ids of the calls.
        self._pending: dict[str, ToolApprovalItem] = {}

    def note(self, usage: Usage) -> None:
        known = self.run.usage
        known.input_tokens = usage.input_tokens
        known.output_tokens = usage.output_tokens
        known.reasoning_tokens = usage.output_tokens_details.reasoning_tokens or 0
        known.cached_tokens = usage.input_tokens_details.cached_tokens or 0

    def llm_started(self, outer: str, agent: Agent[Any], messages: int) -> None:
        around = self._agent_started(outer, agent)
        if not outer:
            self._turns += 1
        if not self.run.is_told:
            return
        if outer:
            span = get_current_span()
            if span is not None:
                self._outer_of_turn[span.span_id] = outer
        else:
            self._turn_ended()
            # The SDK asks the model again when all calls that were approved are done.
            self._note_denied()
            self.run.begin(("turn",), TurnStarted(iteration=self._turns), parent=around)
            around = ("turn",)
        settings = agent.model_settings
        started = LlmStarted(
            provider="openai" if isinstance(agent.model, str) else "",
            model=_model_of(agent),
            message_count=messages,
            tool_count=len(agent.tools),
            temperature=settings.temperature,
            max_tokens=settings.max_tokens,
        )
        self.run.begin(("llm", outer), started, parent=around)

    def _agent_started(self, outer: str, agent: Agent[Any]) -> Key:
        key = ("agent", outer, agent.name)
        if not self.run.is_open(key):
            parent = self._tool_of_call.get(outer)
            started = AgentStarted(
                agent_id=agent.name,
                agent_name=agent.name,
                parent_agent_id=None,
            )
            self.run.begin(key, started, parent=parent)
        return key

    def llm_ended(self, context: RunContextWrapper[Any], response: ModelResponse) -> None:
        usage = response.usage
        self.note(context.usage)
        self.run.end(
            ("llm", _call_id(context)),
            response_id=response.response_id,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            reasoning_tokens=usage.output_tokens_details.reasoning_tokens or 0,
            cache_read_tokens=usage.input_tokens_details.cached_tokens or 0,
        )

    def agent_ended(self, agent: Agent[Any]) -> bool:
        """
        End the work of *agent*; return whether it was the outermost one's.
        """
        outer = self._outer()
        if not outer:
            self._turn_ended()
        self.run.end(("agent", outer, agent.name))
        return not outer

    def handed_off(self, giver: Agent[Any], taker: Agent[Any]) -> None:
        outer = self._outer()
        key = ("agent", outer, giver.name)
        self.run.publish(AgentHandoff(from_agent=giver.name, to_agent=taker.name), parent=key)
        if not outer:
            self._turn_ended()
        self.run.end(key)

    def tool_started(self, context: RunContextWrapper[Any], agent: Agent[Any], tool: Tool) -> None:
        call_id = _call_id(context)
        outer = self._outer()
        span = get_current_span()
        key = _tool_key(call_id, tool, span)
        self._tools[key] = (time.monotonic(), tool, span)
        self._tool_of_call[call_id] = key
        parent: Key = ("turn",) if not outer else ("agent", outer, agent.name)
        arguments = context.tool_arguments if isinstance(context, ToolContext) else None
        if self._pending.pop(call_id, None) is not None:
            self.run.publish(ApprovalGranted(approval_id=call_id))
        self.run.begin(
            key,
            ToolStarted(
                tool_call_id=call_id,
                tool_name=tool.name,
                tool_type=_tool_type(tool),
                arguments=parsed(arguments),
            ),
            parent=parent,
        )

    def tool_ended(self, context: RunContextWrapper[Any], tool: Tool, result: object) -> None:
        self.note(context.usage)
        key = _tool_key(_call_id(context), tool, get_current_span())
        began, _, span = self._tools.pop(key, (0.0, tool, None))
        error = None if span is None else span.error
        if error is not None:
            kind, message = _said(error)
            self.run.end(key, outcome="failure", error_type=kind, error_message=message)
        elif _timed_out(tool, result, time.monotonic() - began):
            self.run.end(
                key, outcome="timeout", error_type="ToolTimeoutError", error_message=str(result)
            )
        elif _failed(tool, context, result):
            # Without tracing the SDK tells a failure by nothing but its fixed answer.
            self.run.end(key, outcome="failure", error_message=str(result))
        else:
            self.run.end(key, result=result)

    def settle(self, error: BaseException) -> None:
        """
        Close what the SDK leaves open when *error* leaves the run, as far as it says how it was.
        """
        data = getattr(error, "run_data", None)
        if data is not None:
            self.note(data.context_wrapper.usage)
        self._publish_cause(error)
        if not isinstance(error, Exception):
            # A cancellation: everything that is open was cancelled with the run.
            return
        for key, (_, tool, span) in self._tools.items():
            said = None if span is None else span.error
            if isinstance(error, ToolTimeoutError) and error.tool_name == tool.name:
                self.run.end(key, error, outcome="timeout")
            elif said is not None:
                self.run.end(key, error.__cause__ or error, outcome="failure")
            elif len(self._tools) == 1:
                self.run.end(key, error.__cause__ or error)
            else:
                # Its sibling raised, and the SDK cancels the others.
                self.run.end(key, outcome="cancelled", error_message="another tool call failed")
        guarded = isinstance(error, _GUARDS)
        for key in self.run.open_keys():
            if key[0] == "llm" and guarded:
                self.run.end(key, outcome="cancelled")
            elif key[0] == "llm":
                self.run.end(key, error)
        for key in self.run.open_keys():
            self.run.end(key, error)

    def finish(self, result: RunResult | RunResultStreaming) -> None:
        """
        Say how a run that returned has ended.
        """
        self.note(result.context_wrapper.usage)
        self._note_denied([item.call_id or "" for item in result.interruptions])
        for item in result.interruptions:
            call_id = item.call_id or ""
            self.run.publish(
                ApprovalRequested(approval_id=call_id, subject=call_id, prompt=item.tool_name)
            )
        if not result.interruptions:
            self._close_agents()
            self.run.decide(result=result.final_output)
            return
        self.run.publish(RunPaused(reason="approval"))
        for key in self._tools:
            # An agent that is used as a tool, and waits for an approval itself.
            self.run.end(key, outcome="deferred")
        self._close_agents(outcome="deferred")
        self.run.decide(outcome="deferred")

    def resume(self, state: RunState[Any]) -> None:
        """
        Begin again with what a paused run waits for; what was decided shows in what becomes of it.
        """
        if not self.run.is_told:
            # What was decided is told with what becomes of it, or not at all.
            return
        self.run.publish(RunResumed())
        self._pending = {item.call_id or "": item for item in state.get_interruptions()}

    def _note_denied(self, still_pending: Collection[str] = ()) -> None:
        for call_id, item in self._pending.items():
            if call_id in still_pending:
                continue
            self.run.publish(ApprovalDenied(approval_id=call_id))
            key = ("tool", call_id)
            started = ToolStarted(
                tool_call_id=call_id,
                tool_name=item.tool_name or "",
                arguments=parsed(item.arguments),
            )
            self.run.begin(key, started)
            self.run.end(key, outcome="denied", reason="not approved", decided_by="user")
        self._pending = {}

    def _close_agents(self, **ending: Any) -> None:
        self._turn_ended()
        for key in self.run.open_keys():
            if key[0] == "agent":
                self.run.end(key, **ending)

    def _turn_ended(self) -> None:
        self.run.end(("turn",))

    def _outer(self) -> str:
        span = get_current_span() if self._outer_of_turn else None
        if span is None:
            return ""
        for span_id in (span.span_id, span.parent_id):
            if span_id in self._outer_of_turn:
                return self._outer_of_turn[span_id]
        return ""

    def _publish_cause(self, error: BaseException) -> None:
        if isinstance(error, MaxTurnsExceeded):
            used = float(self.run.usage.iterations)
            self.run.publish(
                BudgetExceeded(
                    budget_type="turns", scope="run", limit=used, used=used, action="stop"
                )
            )
        elif isinstance(error, _GUARDS):
            result = getattr(error, "guardrail_result", None)
            guard = getattr(error, "guardrail", None) or getattr(result, "guardrail", None)
            name = type(error).__name__
            stage = "tool" if name.startswith("Tool") else "input" if "Input" in name else "output"
            self.run.publish(
                GuardViolated(
                    guard_name=guard.get_name() if guard is not None else "",
                    stage=stage,
                    severity="block",
                    action_taken="stopped the run",
                )
            )


class HarkenHooks(RunHooks[Any]):
    """
    Hooks for `Runner.run()` that publish what the agent does; give them to `Agent.as_tool()`, too.

    One object serves any number of runs, also at once. The SDK calls no hook when a run fails or
    is cancelled, so call the runner through `run()`, `run_sync()` or `run_streamed()`, which know
    how it ended; a run that is started otherwise is closed as orphaned when the SDK lets go of it.
    """

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._ledgers: dict[int, _Ledger] = {}

    async def run(self, starting_agent: Agent[Any], input: Any, **options: Any) -> RunResult:
        """
        Do what `agents.Runner.run()` does, as one run on the bus.
        """
        with self._run(starting_agent, input, options) as ledger:
            result = await Runner.run(starting_agent, input, **options)
            with contained:
                ledger.finish(result)
        return result

    def run_sync(self, starting_agent: Agent[Any], input: Any, **options: Any) -> RunResult:
        """
        Do what `agents.Runner.run_sync()` does, as one run on the bus.
        """
        with self._run(starting_agent, input, options) as ledger:
            result = Runner.run_sync(starting_agent, input, **options)
            with contained:
                ledger.finish(result)
        return result

    @asynccontextmanager
    async def run_streamed(
        self, starting_agent: Agent[Any], input: Any, **options: Any
    ) -> AsyncGenerator[RunResultStreaming]:
        """
        Do what `agents.Runner.run_streamed()` does, as one run on the bus, which ends with the
        block: as cancelled, when the stream was not read to its end.
        """
        with self._run(starting_agent, input, options) as ledger:
            result = Runner.run_streamed(starting_agent, input, **options)
            yield result
            with contained:
                if result.final_output is not None or result.interruptions:
                    ledger.finish(result)
                else:
                    ledger.run.decide(outcome="cancelled", reason="the stream was left")

    @contextmanager
    def _run(self, agent: Agent[Any], input: Any, options: dict[str, Any]) -> Generator[_Ledger]:
        others = options.get("hooks")
        options["hooks"] = self if others is None else _Chain(self, others)
        started = RunStarted(
            model=_model_of(agent),
            max_iterations=options.get("max_turns"),
            prompt=input if isinstance(input, str) else None,
            tools=tuple(tool.name for tool in agent.tools),
        )
        with Run(self._bus, started, source=SOURCE) as run:
            ledger = _Ledger(run)
            token = _current.set(ledger)
            try:
                if isinstance(input, RunState):
                    with contained:
                        ledger.resume(input)
                yield ledger
            except BaseException as error:
                with contained:
                    ledger.settle(error)
                raise
            finally:
                # A generator may be closed in another context than it was begun in.
                with suppress(ValueError):
                    _current.reset(token)

    def _ledger(self, context: RunContextWrapper[Any]) -> _Ledger:
        usage = context.usage
        ledger = _current.get()
        if ledger is not None:
            if ledger.usage_id is None:
                ledger.usage_id = id(usage)
            if ledger.usage_id == id(usage):
                return ledger
        ledger = self._ledgers.get(id(usage))
        if ledger is None:
            ledger = _Ledger(Run(self._bus, RunStarted(), source=SOURCE).open())
            self._ledgers[id(usage)] = ledger
            weakref.finalize(usage, _let_go, self._ledgers, id(usage)).atexit = False
        return ledger

    async def on_llm_start(
        self,
        context: RunContextWrapper[Any],
        agent: Agent[Any],
        system_prompt: str | None,
        input_items: list[Any],
    ) -> None:
        """
        Begin a turn and its call of the model.
        """
        try:
            self._ledger(context).llm_started(_call_id(context), agent, len(input_items))
        except Exception as error:
            contained.note(error)

    async def on_llm_end(
        self, context: RunContextWrapper[Any], agent: Agent[Any], response: ModelResponse
    ) -> None:
        """
        End the call of the model.
        """
        try:
            ledger = self._ledger(context)
            if ledger.run.is_told:
                ledger.llm_ended(context, response)
        except Exception as error:
            contained.note(error)

    async def on_agent_end(
        self, context: RunContextWrapper[Any], agent: Agent[Any], output: Any
    ) -> None:
        """
        End the agent's work, and with the outermost agent the run.
        """
        with contained:
            ledger = self._ledger(context)
            ledger.note(context.usage)
            if ledger.agent_ended(agent):
                # Only of a run that nobody else ends.
                ledger.run.decide(result=output)
                ledger.run.close()

    async def on_handoff(
        self, context: RunContextWrapper[Any], from_agent: Agent[Any], to_agent: Agent[Any]
    ) -> None:
        """
        Publish that another agent acts from now on.
        """
        with contained:
            self._ledger(context).handed_off(from_agent, to_agent)

    async def on_tool_start(
        self, context: RunContextWrapper[Any], agent: Agent[Any], tool: Tool
    ) -> None:
        """
        Begin a tool call.
        """
        try:
            ledger = self._ledger(context)
            if ledger.run.is_told:
                ledger.tool_started(context, agent, tool)
        except Exception as error:
            contained.note(error)

    async def on_tool_end(
        self, context: RunContextWrapper[Any], agent: Agent[Any], tool: Tool, result: object
    ) -> None:
        """
        End a tool call, as the SDK's span of it says.
        """
        try:
            ledger = self._ledger(context)
            if ledger.run.is_told:
                ledger.tool_ended(context, tool, result)
        except Exception as error:
            contained.note(error)


class _Chain(RunHooks[Any]):
    """
    Hooks that call two others.
    """

    def __init__(self, ours: RunHooks[Any], others: RunHooks[Any]) -> None:
        self._both = (ours, others)

    async def on_llm_start(self, *args: Any, **named: Any) -> None:
        for hooks in self._both:
            await hooks.on_llm_start(*args, **named)

    async def on_llm_end(self, *args: Any, **named: Any) -> None:
        for hooks in self._both:
            await hooks.on_llm_end(*args, **named)

    async def on_agent_start(self, *args: Any, **named: Any) -> None:
        for hooks in self._both:
            await hooks.on_agent_start(*args, **named)

    async def on_agent_end(self, *args: Any, **named: Any) -> None:
        for hooks in self._both:
            await hooks.on_agent_end(*args, **named)

    async def on_handoff(self, *args: Any, **named: Any) -> None:
        for hooks in self._both:
            await hooks.on_handoff(*args, **named)

    async def on_tool_start(self, *args: Any, **named: Any) -> None:
        for hooks in self._both:
            await hooks.on_tool_start(*args, **named)

    async def on_tool_end(self, *args: Any, **named: Any) -> None:
        for hooks in self._both:
            await hooks.on_tool_end(*args, **named)


def _let_go(ledgers: dict[int, _Ledger], usage_id: int) -> None:
    ledger = ledgers.pop(usage_id, None)
    if ledger is not None:
        ledger.run.decide("the SDK did not say how the run ended", outcome="orphaned")
        ledger.run.close()


def _call_id(context: RunContextWrapper[Any]) -> str:
    return context.tool_call_id if isinstance(context, ToolContext) else ""


def _tool_key(call_id: str, tool: Tool, span: Span[Any] | None) -> Key:
    # Nested agents may use the same id for calls of their own.
    return ("tool", call_id or tool.name, "" if span is None else span.span_id)


def _model_of(agent: Agent[Any]) -> str:
    model = agent.model
    if isinstance(model, str):
        return model
    return str(getattr(model, "model", None) or type(model).__name__)


def _tool_type(tool: Tool) -> str:
    if not isinstance(tool, FunctionTool):
        return "builtin"
    return "agent" if getattr(tool, "_is_agent_tool", False) else "function"


def _said(error: SpanError) -> tuple[str, str]:
    data = error.get("data") or {}
    return "ToolError", str(data.get("error") or error.get("message") or "")


def _timed_out(tool: Tool, result: object, seconds: float) -> bool:
    if not isinstance(tool, FunctionTool) or tool.timeout_seconds is None:
        return False
    if tool.timeout_error_function is not None:
        return seconds >= tool.timeout_seconds
    return result == default_tool_timeout_error_message(
        tool_name=tool.name, timeout_seconds=tool.timeout_seconds
    )


def _failed(tool: Tool, context: RunContextWrapper[Any], result: object) -> bool:
    is_function = isinstance(tool, FunctionTool)
    return is_function and result == default_tool_error_function(context, Exception())
