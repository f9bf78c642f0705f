"""
CrewAI: a listener on its event bus, and calls of a crew or a flow that end the run on every path.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any

from crewai import Crew, Flow
from crewai.events import (
    AgentExecutionCompletedEvent,
    AgentExecutionErrorEvent,
    AgentExecutionStartedEvent,
    BaseEventListener,
    CrewKickoffCompletedEvent,
    CrewKickoffFailedEvent,
    CrewKickoffStartedEvent,
    FlowFailedEvent,
    FlowFinishedEvent,
    FlowStartedEvent,
    LLMCallCompletedEvent,
    LLMCallFailedEvent,
    LLMCallStartedEvent,
    ToolFailureDetectedEvent,
    ToolUsageErrorEvent,
    ToolUsageFinishedEvent,
    ToolUsageStartedEvent,
)
from crewai.events.base_events import BaseEvent
from crewai.events.types.flow_events import FlowPausedEvent
from crewai.events.types.hook_events import HookDispatchedEvent

from harken import Bus
from harken.adapters._runs import Run, contained, parsed
from harken.catalog import (
    AgentStarted,
    HumanInputReceived,
    HumanInputRequested,
    LlmStarted,
    PolicyEvaluated,
    RunPaused,
    RunResumed,
    RunStarted,
    ToolRetried,
    ToolStarted,
)

SOURCE = f"crewai/{version('crewai')}"

PATIENCE = 5.0
"""Seconds that the last events may take to arrive after a crew or a flow has returned."""

MAX_WAITING = 1_000
"""Flows that wait for somebody's answer and are remembered."""

Key = tuple[str, str]


class _Told:
    """
    What the listener knows of one run of a crew or a flow.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        # The event that began it.
        self.root = ""
        self.is_over = threading.Event()
        self.ids: set[str] = set()
        # Tool calls that are open, by what tells them apart: the framework has no ids of calls.
        self.calls: dict[str, list[Key]] = {}
        # Those of them that failed, and may be tried again.
        self.failed: dict[Key, Any] = {}
        # Those of them that a hook has blocked, and why.
        self.blocked: dict[Key, str] = {}


class HarkenListener(BaseEventListener):
    """
    Listens to CrewAI's event bus and publishes what crews and flows do; make one in a process.

    What belongs together is found by the parents of the events. The bus of CrewAI pairs the ends
    of tool calls with the newest start, so here they are paired by name and arguments. A call
    that CrewAI tries again is one call. `kickoff()` also sees what no event tells. A crew inside
    of a flow, or of a crew, is part of its run.
    """

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        # From the id of an event to its run, and to the operation that it is inside of.
        self._where: dict[str, tuple[_Told, Key | None]] = {}
        # Runs whose caller ends them, by the identity of the crew or the flow.
        self._given: dict[int, _Told] = {}
        # Flows that wait for somebody's answer, by their ids.
        self._waiting: dict[str, None] = {}
        super().__init__()

    def setup_listeners(self, crewai_event_bus: Any) -> None:
        """
        Register for the events that are told.
        """
        handlers: dict[type[Any], Callable[[Any, Any], None]] = {
            CrewKickoffStartedEvent: self._crew_started,
            CrewKickoffCompletedEvent: self._crew_ended,
            CrewKickoffFailedEvent: self._crew_ended,
            FlowStartedEvent: self._flow_started,
            FlowFinishedEvent: self._flow_ended,
            FlowFailedEvent: self._flow_ended,
            FlowPausedEvent: self._flow_paused,
            AgentExecutionStartedEvent: self._agent_started,
            AgentExecutionCompletedEvent: self._agent_ended,
            AgentExecutionErrorEvent: self._agent_ended,
            ToolUsageStartedEvent: self._tool_started,
            ToolUsageFinishedEvent: self._tool_finished,
            ToolUsageErrorEvent: self._tool_failed,
            ToolFailureDetectedEvent: self._tool_given_up,
            HookDispatchedEvent: self._hook_dispatched,
            LLMCallStartedEvent: self._llm_started,
            LLMCallCompletedEvent: self._llm_ended,
            LLMCallFailedEvent: self._llm_ended,
        }
        for kind in _all_kinds():
            crewai_event_bus.register_handler(kind, self._handler(handlers.get(kind)))

    def _handler(self, tell: Callable[[Any, Any], None] | None) -> Any:
        # A coroutine: those come in order, one after the other, functions come in threads.
        async def handle(source: Any, event: Any) -> None:
            with contained:
                self._note(event)
                if tell is not None:
                    tell(source, event)

        return handle

    def kickoff(self, crew: Crew | Flow[Any], **options: Any) -> Any:
        """
        Do what `kickoff()` of a crew or a flow does, as one run.
        """
        with Run(self._bus, RunStarted(), source=SOURCE) as run:
            told = self._given[id(crew)] = _Told(run)
            try:
                result = crew.kickoff(**options)
            finally:
                self._wait(crew, told)
            with contained:
                self._decide(run, result)
        return result

    async def kickoff_async(self, crew: Crew | Flow[Any], **options: Any) -> Any:
        """
        Do what `kickoff_async()` of a crew or a flow does, as one run.
        """
        with Run(self._bus, RunStarted(), source=SOURCE) as run:
            told = self._given[id(crew)] = _Told(run)
            try:
                result = await crew.kickoff_async(**options)
            except BaseException as error:
                # A cancelled crew may go on in its thread; nobody waits for that.
                self._wait(crew, told, patiently=isinstance(error, Exception))
                raise
            self._wait(crew, told)
            with contained:
                self._decide(run, result)
        return result

    def _wait(self, crew: Crew | Flow[Any], told: _Told, *, patiently: bool = True) -> None:
        with contained:
            if patiently:
                told.is_over.wait(PATIENCE)
            self._given.pop(id(crew), None)
            self._note_usage(told.run, crew)
            self._end_failed(told)

    def _decide(self, run: Run, result: Any) -> None:
        # A flow that waits returns what it waits for.
        if type(result).__name__ != "HumanFeedbackPending":
            run.decide(result=getattr(result, "raw", None) or str(result))

    def _note_usage(self, run: Run, source: Any) -> None:
        is_crew = isinstance(source, Crew)
        used = source.calculate_usage_metrics() if is_crew else source.usage_metrics
        known = run.usage
        known.input_tokens = used.prompt_tokens
        known.output_tokens = used.completion_tokens
        known.cached_tokens = used.cached_prompt_tokens

    def _note(self, event: Any) -> None:
        """
        Take note of where *event* is: where its parent is.
        """
        around = self._where.get(event.parent_event_id or "")
        if around is not None:
            self._put(event.event_id, *around)

    def _put(self, event_id: str, told: _Told, key: Key | None) -> None:
        told.ids.add(event_id)
        self._where[event_id] = (told, key)

    def _crew_started(self, source: Any, event: Any) -> None:
        given = self._given.get(id(source))
        if given is None and event.event_id in self._where:
            # A crew inside of a crew is part of its run.
            return
        told = given or _Told(Run(self._bus, RunStarted(), source=SOURCE).open())
        told.root = str(event.event_id)
        self._put(event.event_id, told, None)

    def _crew_ended(self, source: Any, event: Any) -> None:
        told = self._ended(event)
        if told is None:
            return
        if id(source) not in self._given:
            self._note_usage(told.run, source)
            error = getattr(event, "error", None)
            if error is None:
                told.run.decide(result=str(getattr(event, "output", None) or event.result))
            else:
                told.run.decide(str(error), outcome="failure")
            told.run.close()
        told.is_over.set()

    def _flow_started(self, source: Any, event: Any) -> None:
        self._crew_started(source, event)
        found = self._where.get(event.event_id)
        flow_id = str(source.flow_id)
        if found is not None and flow_id in self._waiting:
            del self._waiting[flow_id]
            found[0].run.publish(RunResumed())
            found[0].run.publish(HumanInputReceived(request_id=flow_id))

    def _flow_ended(self, source: Any, event: Any) -> None:
        self._crew_ended(source, event)

    def _flow_paused(self, source: Any, event: Any) -> None:
        told = self._ended(event)
        if told is None:
            return
        flow_id = str(event.flow_id)
        told.run.publish(HumanInputRequested(request_id=flow_id, question=event.message))
        told.run.publish(RunPaused(reason="human_input"))
        told.run.decide(outcome="deferred")
        self._waiting[flow_id] = None
        if len(self._waiting) > MAX_WAITING:
            del self._waiting[next(iter(self._waiting))]
        if id(source) not in self._given:
            self._note_usage(told.run, source)
            told.run.close()
        told.is_over.set()

    def _ended(self, event: Any) -> _Told | None:
        """
        Return the run that *event* is the end of; what is inside of a run ends none.
        """
        found = self._where.get(event.started_event_id or "")
        if found is None or found[0].root != event.started_event_id:
            return None
        told = found[0]
        self._end_failed(told)
        for event_id in told.ids:
            self._where.pop(event_id, None)
        return told

    def _agent_started(self, source: Any, event: Any) -> None:
        found = self._where.get(event.event_id)
        if found is None:
            return
        told, around = found
        key = ("agent", str(event.event_id))
        role = str(getattr(source, "role", "agent")).strip()
        told.run.begin(key, AgentStarted(agent_id=role, agent_name=role), parent=around)
        self._put(event.event_id, told, key)

    def _agent_ended(self, source: Any, event: Any) -> None:
        found = self._where.get(event.started_event_id or "")
        if found is None or found[1] is None:
            return
        told, key = found
        self._end_failed(told, key)
        error = getattr(event, "error", None)
        if error is None:
            told.run.end(key)
        else:
            outcome = "timeout" if _is_out_of_time(source, str(error)) else "failure"
            told.run.end(key, outcome=outcome, error_message=str(error))

    def _tool_started(self, source: Any, event: Any) -> None:
        found = self._where.get(event.event_id)
        if found is None:
            return
        told, around = found
        name, arguments = _call(event)
        which = _which(around, name, arguments)
        open_calls = told.calls.setdefault(which, [])
        again = next((key for key in open_calls if key in told.failed), None)
        if again is not None:
            cause = str(told.failed.pop(again))
            attempt = int(event.run_attempts or 0)
            told.run.publish(
                ToolRetried(tool_call_id=again[1], tool_name=name, attempt=attempt, cause=cause),
                parent=again,
            )
            return
        self._end_failed(told, around)
        key = ("tool", str(event.event_id))
        open_calls.append(key)
        started = ToolStarted(tool_call_id=key[1], tool_name=name, arguments=arguments)
        told.run.begin(key, started, parent=around)
        self._put(event.event_id, told, key)

    def _tool_finished(self, source: Any, event: Any) -> None:
        found = self._open_call(event)
        if found is None:
            return
        told, key = found
        failure = getattr(event, "failure", None)
        if key in told.blocked:
            reason = told.blocked.pop(key)
            told.run.end(key, outcome="denied", reason=reason, decided_by="hook")
        elif failure is None:
            told.run.end(key, result=str(event.output), from_cache=bool(event.from_cache))
        else:
            message = str(getattr(failure, "message", failure))
            told.run.end(key, outcome="failure", error_message=message)

    def _tool_failed(self, source: Any, event: Any) -> None:
        found = self._open_call(event, keep=True)
        if found is not None:
            # Whether it will be tried again is not known before the next event.
            found[0].failed[found[1]] = event.error

    def _tool_given_up(self, source: Any, event: Any) -> None:
        found = self._where.get(event.event_id)
        if found is not None:
            told, around = found
            for key in list(told.calls.get(_which(around, *_call(event)), [])):
                self._end_call_that_failed(told, key)

    def _hook_dispatched(self, source: Any, event: Any) -> None:
        found = self._where.get(event.event_id)
        if found is None or event.outcome != "aborted":
            return
        told, around = found
        reason = str(event.abort_reason or "")
        if around is not None and around[0] == "tool":
            told.blocked[around] = reason
            return
        # Where the model answers in text, CrewAI tells nothing else of a call that is blocked.
        point = str(event.interception_point)
        denied = PolicyEvaluated(policy_id=point, rule=point, decision="deny", reason=reason)
        told.run.publish(denied, parent=around)

    def _open_call(self, event: Any, *, keep: bool = False) -> tuple[_Told, Key] | None:
        found = self._where.get(event.event_id)
        if found is None:
            return None
        told, around = found
        calls = told.calls.get(_which(around, *_call(event)), [])
        key = next((one for one in calls if one not in told.failed), None)
        if key is None:
            return None
        if not keep:
            calls.remove(key)
        return told, key

    def _end_failed(self, told: _Told, around: Key | None = None) -> None:
        """
        End the calls that failed and were not tried again: all, or those around *around*.
        """
        for which, calls in told.calls.items():
            if around is not None and not which.startswith(f"{around[1]}|"):
                continue
            for key in list(calls):
                self._end_call_that_failed(told, key)

    def _end_call_that_failed(self, told: _Told, key: Key) -> None:
        if key not in told.failed:
            return
        error = told.failed.pop(key)
        for calls in told.calls.values():
            if key in calls:
                calls.remove(key)
        if isinstance(error, TimeoutError):
            told.run.end(
                key, outcome="timeout", error_type="TimeoutError", error_message=f"{error}"
            )
        else:
            told.run.end(key, outcome="failure", error_message=f"{error}")

    def _llm_started(self, source: Any, event: Any) -> None:
        found = self._where.get(event.event_id)
        if found is not None:
            told, around = found
            started = LlmStarted(llm_call_id=str(event.call_id), model=str(event.model))
            told.run.begin(("llm", str(event.call_id)), started, parent=around)

    def _llm_ended(self, source: Any, event: Any) -> None:
        found = self._where.get(event.event_id)
        if found is None:
            return
        key = ("llm", str(event.call_id))
        if getattr(event, "error", None) is not None:
            found[0].run.end(key, outcome="failure", error_type="LLMCallFailed")
            return
        used: Mapping[str, Any] = getattr(event, "usage", None) or {}
        found[0].run.end(
            key,
            input_tokens=used.get("prompt_tokens") or 0,
            output_tokens=used.get("completion_tokens") or 0,
        )


def _is_out_of_time(agent: Any, error: str) -> bool:
    """
    Whether the agent has used up its `max_execution_time`: its error comes as text.
    """
    limit = getattr(agent, "max_execution_time", None)
    return limit is not None and f"execution timed out after {limit} seconds" in error


def _call(event: Any) -> tuple[str, Any]:
    return str(event.tool_name), parsed(event.tool_args)


def _which(around: Key | None, name: str, arguments: Any) -> str:
    inside = "" if around is None else around[1]
    # The same arguments come in another order, and once as text and once as values.
    told = sorted(arguments.items()) if isinstance(arguments, dict) else arguments
    return f"{inside}|{name}|{told}"


def _all_kinds() -> list[type[Any]]:
    """
    Return all event classes: what is not told is still somebody's parent.
    """
    found: list[type[Any]] = []
    left: list[type[Any]] = [BaseEvent]
    while left:
        kind = left.pop()
        found.append(kind)
        left += kind.__subclasses__()
    return found
