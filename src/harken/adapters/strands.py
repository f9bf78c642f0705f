"""
Strands Agents: hooks for an agent, and calls of it that end the run on every path.
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import Any
from weakref import WeakKeyDictionary

from strands import Agent
from strands.agent import AgentResult
from strands.hooks import (
    AfterInvocationEvent,
    AfterModelCallEvent,
    AfterToolCallEvent,
    BeforeInvocationEvent,
    BeforeModelCallEvent,
    BeforeToolCallEvent,
    HookProvider,
    HookRegistry,
)

from harken import Bus
from harken.adapters._runs import Run, contained
from harken.catalog import (
    BudgetExceeded,
    HumanInputReceived,
    HumanInputRequested,
    LlmStarted,
    RunPaused,
    RunResumed,
    RunStarted,
    ToolStarted,
)

SOURCE = f"strands-agents/{version('strands-agents')}"

Key = tuple[str, str]

LLM: Key = ("llm", "")

_BUDGETS = {
    "limit_turns": "turns",
    "limit_output_tokens": "tokens",
    "limit_total_tokens": "tokens",
    "max_tokens": "tokens",
}


class _Told:
    """
    What the hooks know of one invocation of an agent.

    Args:
        is_given: Whether its caller ends the run.
    """

    def __init__(self, run: Run, *, is_given: bool = False) -> None:
        self.run = run
        self.is_given = is_given


class HarkenHooks(HookProvider):
    """
    Hooks for `strands.Agent(hooks=[...])`: each invocation of the agent is a run.

    One object serves any number of agents, also at once. An agent that is a tool of another is a
    run inside of the call; give it the hooks, too. What tools publish themselves is part of the run
    of an agent that is called through `call()` or `invoke_async()`.
    """

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        # An agent has one invocation at a time.
        self._told: WeakKeyDictionary[Any, _Told] = WeakKeyDictionary()
        # What agents that were interrupted wait for.
        self._waiting: WeakKeyDictionary[Any, list[str]] = WeakKeyDictionary()
        # The calls that agents are asked in which are tools.
        self._asked: WeakKeyDictionary[Any, tuple[Run, Key]] = WeakKeyDictionary()

    def register_hooks(self, registry: HookRegistry, **kwargs: Any) -> None:
        """
        Register for the events that are told.
        """
        registry.add_callback(BeforeInvocationEvent, self._run_started)
        registry.add_callback(AfterInvocationEvent, self._run_ended)
        registry.add_callback(BeforeModelCallEvent, self._llm_started)
        registry.add_callback(AfterModelCallEvent, self._llm_ended)
        registry.add_callback(BeforeToolCallEvent, self._tool_started)
        registry.add_callback(AfterToolCallEvent, self._tool_ended)

    def call(self, agent: Agent, prompt: Any = None, **options: Any) -> AgentResult:
        """
        Do what ``agent(prompt)`` does, as one run on the bus.
        """
        with self._run(agent, prompt):
            return agent(prompt, **options)

    async def invoke_async(self, agent: Agent, prompt: Any = None, **options: Any) -> AgentResult:
        """
        Do what `agent.invoke_async()` does, as one run on the bus.
        """
        with self._run(agent, prompt):
            return await agent.invoke_async(prompt, **options)

    def _run(self, agent: Agent, prompt: Any) -> Run:
        run = Run(self._bus, _started(agent, prompt), source=SOURCE)
        with contained:
            self._told[agent] = _Told(run, is_given=True)
        return run

    def _run_started(self, event: BeforeInvocationEvent) -> None:
        with contained:
            agent = event.agent
            told = self._told.get(agent)
            if told is None or not told.is_given or told.run.is_closed:
                if told is not None:
                    # The hook of somebody else raised, and nothing told of the end.
                    told.run.close()
                told = self._told[agent] = _Told(self._begin(agent, event.messages))
            for request_id in self._waiting.pop(agent, ()):
                told.run.publish(HumanInputReceived(request_id=request_id))
                told.run.publish(RunResumed())

    def _begin(self, agent: Any, messages: Any) -> Run:
        last = messages[-1]["content"] if messages else ()
        prompt = "".join(str(block["text"]) for block in last if "text" in block)
        run = Run(self._bus, _started(agent, prompt or None), source=SOURCE)
        outer = self._asked.get(agent)
        return run.open() if outer is None else outer[0].open_inside(run, outer[1])

    def _run_ended(self, event: AfterInvocationEvent) -> None:
        # The framework is in the middle of raising it, and tells nobody.
        error = sys.exc_info()[1]
        with contained:
            told = self._told.pop(event.agent, None)
            if told is None:
                return
            run = told.run
            self._note_usage(run, event.agent)
            if event.result is not None:
                self._finish(run, event.agent, event.result)
            elif error is None:
                run.decide(outcome="cancelled", reason="a hook cancelled the invocation")
            if not told.is_given:
                run.close(error)

    def _note_usage(self, run: Run, agent: Any) -> None:
        invocation = agent.event_loop_metrics.latest_agent_invocation
        if invocation is None:
            return
        used, known = invocation.usage, run.usage
        known.input_tokens = used["inputTokens"]
        known.output_tokens = used["outputTokens"]
        known.cached_tokens = used.get("cacheReadInputTokens") or 0
        known.iterations = len(invocation.cycles)

    def _finish(self, run: Run, agent: Any, result: AgentResult) -> None:
        reason = str(result.stop_reason)
        if reason == "interrupt":
            self._pause(run, agent, result)
        elif reason == "cancelled":
            for key in run.open_keys():
                run.end(key, outcome="cancelled")
            run.decide(outcome="cancelled", reason="the agent was cancelled")
        else:
            if reason in _BUDGETS:
                exceeded = BudgetExceeded(budget_type=_BUDGETS[reason], scope="run", action="stop")
                run.publish(exceeded)
            run.decide(result=str(result), stop_reason=reason)

    def _pause(self, run: Run, agent: Any, result: AgentResult) -> None:
        for key in run.open_keys():
            run.end(key, outcome="deferred")
        ids: list[str] = []
        for interrupt in result.interrupts or ():
            ids.append(interrupt.id)
            question = str(interrupt.reason or interrupt.name)
            run.publish(HumanInputRequested(request_id=interrupt.id, question=question))
        run.publish(RunPaused(reason="human_input"))
        run.decide(outcome="deferred")
        self._waiting[agent] = ids

    def _llm_started(self, event: BeforeModelCallEvent) -> None:
        with contained:
            told = self._told.get(event.agent)
            if told is not None:
                messages = len(event.agent.messages)
                tools = len(event.agent.tool_names)
                model = _model_of(event.agent)
                started = LlmStarted(model=model, message_count=messages, tool_count=tools)
                told.run.begin(LLM, started)

    def _llm_ended(self, event: AfterModelCallEvent) -> None:
        with contained:
            told = self._told.get(event.agent)
            if told is None:
                return
            response = event.stop_response
            if response is None:
                told.run.end(LLM, event.exception or sys.exc_info()[1])
                return
            used: Any = response.message.get("metadata", {}).get("usage", {})
            told.run.end(
                LLM,
                input_tokens=used.get("inputTokens", 0),
                output_tokens=used.get("outputTokens", 0),
                cache_read_tokens=used.get("cacheReadInputTokens") or 0,
                cache_write_tokens=used.get("cacheWriteInputTokens") or 0,
                finish_reasons=(str(response.stop_reason),),
            )

    def _tool_started(self, event: BeforeToolCallEvent) -> None:
        with contained:
            told = self._told.get(event.agent)
            if told is None:
                return
            call = event.tool_use
            key = ("tool", str(call["toolUseId"]))
            inner = getattr(event.selected_tool, "agent", None)
            started = ToolStarted(
                tool_call_id=key[1],
                tool_name=call["name"],
                arguments=call["input"],
                tool_type="agent" if isinstance(inner, Agent) else "function",
            )
            told.run.begin(key, started)
            if isinstance(inner, Agent):
                self._asked[inner] = (told.run, key)

    def _tool_ended(self, event: AfterToolCallEvent) -> None:
        with contained:
            inner = getattr(event.selected_tool, "agent", None)
            if isinstance(inner, Agent):
                self._asked.pop(inner, None)
            told = self._told.get(event.agent)
            if told is None:
                return
            key = ("tool", str(event.tool_use["toolUseId"]))
            result, error = event.result, event.exception
            text = "\n".join(str(one["text"]) for one in result["content"] if "text" in one)
            if event.cancel_message is not None:
                denial = event.cancel_message
                told.run.end(key, outcome="denied", reason=denial, decided_by="hook")
            elif error is not None:
                told.run.end(key, error)
            elif result["status"] == "error":
                told.run.end(key, outcome="failure", error_message=text)
            else:
                told.run.end(key, result=text or result["content"])


def _started(agent: Any, prompt: Any) -> RunStarted:
    return RunStarted(
        model=_model_of(agent),
        tools=tuple(agent.tool_names),
        prompt=prompt if isinstance(prompt, str) else None,
    )


def _model_of(agent: Any) -> str:
    config = agent.model.get_config()
    named = config.get("model_id") if isinstance(config, dict) else None
    return str(named or type(agent.model).__name__)
