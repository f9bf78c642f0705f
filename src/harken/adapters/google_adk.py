"""
Google's Agent Development Kit: a plugin of a runner, and a call of it that ends the run on every
path.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from google.adk import __version__
from google.adk.agents import BaseAgent
from google.adk.agents.invocation_context import LlmCallsLimitExceededError
from google.adk.plugins.base_plugin import BasePlugin

from harken import Bus
from harken.adapters._runs import Run, contained
from harken.catalog import (
    AgentStarted,
    ApprovalDenied,
    ApprovalGranted,
    ApprovalRequested,
    BudgetExceeded,
    LlmStarted,
    RunPaused,
    RunStarted,
    ToolStarted,
)

SOURCE = f"google-adk/{__version__}"

Key = tuple[str, str]


class _Told:
    """
    What the plugin knows of one invocation.

    Args:
        is_given: Whether its caller ends the run.
    """

    def __init__(self, run: Run, *, is_given: bool = False) -> None:
        self.run = run
        self.is_given = is_given
        self.is_paused = False
        self.answer = ""


class HarkenPlugin(BasePlugin):
    """
    A plugin for ``Runner(plugins=[...])``: each invocation is a run. It never decides anything.

    One object serves any number of runners, also at once. The kit calls no plugin when a run is
    cancelled, so call the runner through `run_async()`; a cancelled run that is started otherwise
    is closed as orphaned when its session is used again.
    """

    def __init__(self, bus: Bus) -> None:
        super().__init__(name="harken")
        self._bus = bus
        self._told: dict[str, _Told] = {}
        # Runs that have not ended, by user and session.
        self._of_session: dict[tuple[str, str], _Told] = {}
        # The calls that agents are asked in which are tools, by the identity of the agent.
        self._asked: dict[int, tuple[Run, Key]] = {}

    async def run_async(self, runner: Any, **options: Any) -> AsyncGenerator[Any]:
        """
        Do what `runner.run_async()` does, as one run on the bus; whoever leaves the events before
        their end has cancelled it.
        """
        session = (str(options["user_id"]), str(options["session_id"]))
        told = _Told(self._new_run(runner.agent, options.get("new_message")).open(), is_given=True)
        self._of_session[session] = told
        try:
            async with aclosing(runner.run_async(**options)) as events:
                async for event in events:
                    yield event
        except BaseException as error:
            told.run.close(error)
            raise
        finally:
            told.run.close()
            if self._of_session.get(session) is told:
                del self._of_session[session]

    def _new_run(self, agent: Any, message: Any) -> Run:
        model = getattr(agent, "model", None)
        named = model if isinstance(model, str) else getattr(model, "model", None)
        started = RunStarted(model=named, prompt=_text_of(message) or None)
        return Run(self._bus, started, source=SOURCE)

    async def before_run_callback(self, *, invocation_context: Any) -> None:
        """
        Begin a run.
        """
        with contained:
            context = invocation_context
            session = (str(context.user_id), str(context.session.id))
            told = self._of_session.get(session)
            if told is None or not told.is_given or told.run.is_closed:
                if told is not None:
                    # It was cancelled, and nothing has told so.
                    told.run.close()
                run = self._new_run(context.agent, context.user_content)
                outer = self._asked.get(id(context.agent))
                told = _Told(run.open() if outer is None else outer[0].open_inside(run, outer[1]))
                self._of_session[session] = told
            self._told[context.invocation_id] = told

    async def after_run_callback(self, *, invocation_context: Any) -> None:
        """
        End a run that was not ended by an error.
        """
        with contained:
            self._end(invocation_context, None)

    async def on_run_error_callback(self, *, invocation_context: Any, error: Exception) -> None:
        """
        End a run with what left it.
        """
        with contained:
            self._end(invocation_context, error)

    def _end(self, context: Any, error: Exception | None) -> None:
        told = self._told.pop(context.invocation_id, None)
        if told is None:
            return
        if isinstance(error, LlmCallsLimitExceededError):
            told.run.publish(BudgetExceeded(budget_type="turns", scope="run", action="stop"))
        if told.is_paused:
            told.run.publish(RunPaused(reason="approval"))
            told.run.decide(outcome="deferred")
        else:
            told.run.decide(result=told.answer or None)
        if not told.is_given:
            told.run.close(error)
            self._of_session.pop((str(context.user_id), str(context.session.id)), None)

    async def on_event_callback(self, *, invocation_context: Any, event: Any) -> None:
        """
        Remember what the agent has said last.
        """
        with contained:
            told = self._told.get(invocation_context.invocation_id)
            if told is not None and event.is_final_response():
                told.answer = _text_of(event.content) or told.answer

    async def before_agent_callback(self, *, agent: BaseAgent, callback_context: Any) -> None:
        """
        Begin the work of an agent.
        """
        with contained:
            told = self._told.get(callback_context.invocation_id)
            if told is not None:
                outer = None if agent.parent_agent is None else ("agent", agent.parent_agent.name)
                started = AgentStarted(agent_id=agent.name, agent_name=agent.name)
                told.run.begin(("agent", agent.name), started, parent=outer)

    async def after_agent_callback(self, *, agent: BaseAgent, callback_context: Any) -> None:
        """
        End the work of an agent.
        """
        self._end_operation(callback_context, ("agent", agent.name))

    async def on_agent_error_callback(
        self, *, agent: BaseAgent, callback_context: Any, error: Exception
    ) -> None:
        """
        End the work of an agent with what left it.
        """
        self._end_operation(callback_context, ("agent", agent.name), error)

    async def before_model_callback(self, *, callback_context: Any, llm_request: Any) -> None:
        """
        Begin a call of a model.
        """
        with contained:
            told = self._told.get(callback_context.invocation_id)
            if told is not None:
                agent = ("agent", callback_context.agent_name)
                started = LlmStarted(
                    model=str(llm_request.model or "unknown"),
                    message_count=len(llm_request.contents),
                    tool_count=len(llm_request.tools_dict),
                )
                told.run.usage.iterations += 1
                told.run.begin(("llm", callback_context.agent_name), started, parent=agent)

    async def after_model_callback(self, *, callback_context: Any, llm_response: Any) -> None:
        """
        End a call of a model, when its response is whole.
        """
        with contained:
            told = self._told.get(callback_context.invocation_id)
            if told is None or llm_response.partial:
                return
            key = ("llm", callback_context.agent_name)
            if llm_response.error_code:
                told.run.end(key, outcome="failure", error_type=str(llm_response.error_code))
            else:
                told.run.end(key, **_used(told.run, llm_response.usage_metadata))

    async def on_model_error_callback(
        self, *, callback_context: Any, llm_request: Any, error: Exception
    ) -> None:
        """
        End a call of a model with what left it.
        """
        self._end_operation(callback_context, ("llm", callback_context.agent_name), error)

    async def before_tool_callback(
        self, *, tool: Any, tool_args: dict[str, Any], tool_context: Any
    ) -> None:
        """
        Begin a tool call.
        """
        with contained:
            told = self._told.get(tool_context.invocation_id)
            if told is None:
                return
            key = ("tool", str(tool_context.function_call_id))
            answer = tool_context.tool_confirmation
            if answer is not None:
                decided = ApprovalGranted if answer.confirmed else ApprovalDenied
                told.run.publish(decided(approval_id=key[1]))
            inner = getattr(tool, "agent", None)
            started = ToolStarted(
                tool_call_id=key[1],
                tool_name=str(tool.name),
                arguments=tool_args,
                tool_type="function" if inner is None else "agent",
            )
            told.run.begin(key, started, parent=("agent", tool_context.agent_name))
            if inner is not None:
                self._asked[id(inner)] = (told.run, key)

    async def after_tool_callback(
        self, *, tool: Any, tool_args: dict[str, Any], tool_context: Any, result: Any
    ) -> None:
        """
        End a tool call; one that waits for an approval has not failed.
        """
        with contained:
            told = self._told.get(tool_context.invocation_id)
            if told is None:
                return
            self._asked.pop(id(getattr(tool, "agent", None)), None)
            key = ("tool", str(tool_context.function_call_id))
            answer = tool_context.tool_confirmation
            if key[1] in tool_context.actions.requested_tool_confirmations:
                told.is_paused = True
                told.run.end(key, outcome="deferred")
                requested = ApprovalRequested(
                    approval_id=key[1], subject=key[1], prompt=str(tool.name)
                )
                told.run.publish(requested)
            elif answer is not None and not answer.confirmed:
                told.run.end(key, outcome="denied", reason="not approved", decided_by="user")
            else:
                told.run.end(key, result=result)

    async def on_tool_error_callback(
        self, *, tool: Any, tool_args: dict[str, Any], tool_context: Any, error: Exception
    ) -> None:
        """
        End a tool call with what left it, also a cancellation.
        """
        self._asked.pop(id(getattr(tool, "agent", None)), None)
        self._end_operation(tool_context, ("tool", str(tool_context.function_call_id)), error)

    def _end_operation(self, context: Any, key: Key, error: BaseException | None = None) -> None:
        with contained:
            told = self._told.get(context.invocation_id)
            if told is not None:
                told.run.end(key, error)


def _text_of(content: Any) -> str:
    parts = getattr(content, "parts", None) or ()
    return "".join(part.text for part in parts if part.text and not part.thought)


def _used(run: Run, usage: Any) -> dict[str, Any]:
    """
    Add to the usage of *run* what one call has used up; return it as fields of the call's end.
    """
    if usage is None:
        return {}
    thought = usage.thoughts_token_count or 0
    fields = {
        "input_tokens": usage.prompt_token_count or 0,
        "output_tokens": (usage.candidates_token_count or 0) + thought,
        "reasoning_tokens": thought,
        "cache_read_tokens": usage.cached_content_token_count or 0,
    }
    known = run.usage
    known.input_tokens += fields["input_tokens"]
    known.output_tokens += fields["output_tokens"]
    known.reasoning_tokens += thought
    known.cached_tokens += fields["cache_read_tokens"]
    return fields
