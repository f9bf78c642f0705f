"""
LangChain and LangGraph: a callback handler, and calls of a graph or a chain with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler, BaseCallbackManager
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, LLMResult
from langchain_core.runnables import Runnable, RunnableConfig

from harken import Bus
from harken.adapters._runs import Run, contained, parsed
from harken.catalog import (
    AgentStarted,
    ApprovalDenied,
    ApprovalGranted,
    ApprovalRequested,
    BudgetExceeded,
    HumanInputReceived,
    HumanInputRequested,
    LlmStarted,
    RetrievalCompleted,
    RunPaused,
    RunResumed,
    RunStarted,
    ToolStarted,
    TurnStarted,
)

SOURCE = f"langchain/{version('langchain-core')}"

MAX_WAITING = 1_000
"""Threads whose runs wait for somebody's answer that are remembered."""

# The number of an id of the framework's, which is faster to look up than the id.
Key = tuple[str, int]

TURN: Key = ("turn", 0)


class _Told:
    """
    What the handler knows of one run.
    """

    def __init__(self, run: Run, root: int, thread_id: str | None) -> None:
        self.run = run
        self.root = root
        self.thread_id = thread_id
        self.ids = [root]
        self.interrupts: list[Any] = []


class HarkenHandler(BaseCallbackHandler):
    """
    A callback handler that publishes what chains, graphs and agents do.

    One object serves any number of runs, also at once, from any thread: what belongs together is
    found by the framework's ids. A run is told from the start of the outermost chain to its end.
    """

    # In the thread that works, and before it goes on: an end never overtakes its start.
    run_inline = True
    raise_error = False

    def __init__(self, bus: Bus) -> None:
        super().__init__()
        self._bus = bus
        # From the framework's id to its run, and to the operation that it is or is inside of.
        self._where: dict[int, tuple[_Told, Key | None]] = {}
        # What runs that were interrupted wait for, by the id of their thread.
        self.waiting: dict[str, list[Any]] = {}

    def invoke(
        self, runnable: Runnable[Any, Any], input: Any, config: RunnableConfig | None = None
    ) -> Any:
        """
        Do what `runnable.invoke()` does, as one run; what tools publish belongs to it, too.
        """
        with Run(self._bus, RunStarted(), source=SOURCE) as run:
            return runnable.invoke(input, _with_handler(config, _OneRun(self, run)))

    async def ainvoke(
        self, runnable: Runnable[Any, Any], input: Any, config: RunnableConfig | None = None
    ) -> Any:
        """
        Do what `runnable.ainvoke()` does, as one run; what tools publish belongs to it, too.
        """
        with Run(self._bus, RunStarted(), source=SOURCE) as run:
            return await runnable.ainvoke(input, _with_handler(config, _OneRun(self, run)))

    def on_chain_start(
        self,
        serialized: dict[str, Any],
        inputs: Any,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """
        Begin a run, a turn or the work of an agent; other chains are not told.
        """
        try:
            name = str(kwargs.get("name") or "")
            parent = None if parent_run_id is None else parent_run_id.int
            around = None if parent is None else self._where.get(parent)
            if around is None:
                self._begin_run(run_id, inputs, metadata or {})
                return
            told, key = around
            if name == "model" and parent == told.root and _is_step(tags or ()):
                told.run.end(TURN)
                told.run.begin(TURN, TurnStarted(iteration=told.run.usage.iterations + 1))
            elif self._is_agent(name, key, metadata or {}) and not _is_step(tags or ()):
                inner = ("agent", run_id.int)
                self._note(run_id, told, inner)
                agent = AgentStarted(agent_id=name, agent_name=name)
                told.run.begin(inner, agent, parent=key)
                return
            self._note(run_id, told, key)
        except Exception as error:
            contained.note(error)

    def _is_agent(self, name: str, around: Key | None, metadata: Mapping[str, Any]) -> bool:
        named = metadata.get("lc_agent_name") == name
        return named or (around is not None and around[0] == "tool")

    def _begin_run(self, run_id: UUID, inputs: Any, metadata: Mapping[str, Any]) -> _Told:
        thread_id = metadata.get("thread_id")
        told = _Told(
            self._new_run(run_id), run_id.int, None if thread_id is None else str(thread_id)
        )
        self._where[run_id.int] = (told, None)
        resume = getattr(inputs, "resume", None)
        if resume is not None:
            self._resume(told, resume)
        return told

    def _new_run(self, run_id: UUID) -> Run:
        return Run(self._bus, RunStarted(), source=SOURCE, run_id=str(run_id)).open()

    def _end_run(self, told: _Told, error: BaseException | None) -> None:
        told.run.close(error)

    def on_chain_end(self, outputs: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """
        End what the chain is.
        """
        try:
            self._end_chain(run_id, None, outputs)
        except Exception as error:
            contained.note(error)

    def on_chain_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """
        End what the chain is, with what left it.
        """
        with contained:
            self._end_chain(run_id, error, None)

    def _end_chain(self, run_id: UUID, error: BaseException | None, outputs: Any) -> None:
        found = self._where.get(run_id.int)
        if found is None:
            return
        told, _ = found
        if error is not None and _is_a(error, "ParentCommand"):
            # How a graph inside of a graph tells the outer one where to go on.
            error = None
        if error is not None and _is_a(error, "GraphInterrupt"):
            self._interrupt(told, error)
            if run_id.int != told.root:
                self._end_operation(run_id, outcome="deferred")
                return
            error = None
        if run_id.int != told.root:
            self._end_operation(run_id, error)
            return
        # The end of a turn is that of its last tool call, and a run's end that of its last turn.
        told.run.end(TURN, error)
        if told.interrupts:
            self._pause(told)
        elif error is None:
            told.run.decide(result=_answer(outputs))
        elif _is_a(error, "GraphRecursionError"):
            told.run.publish(BudgetExceeded(budget_type="turns", scope="run", action="stop"))
        self._forget(told)
        self._end_run(told, error)

    def on_tool_start(
        self,
        serialized: dict[str, Any],
        input_str: str,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        inputs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """
        Begin a tool call.
        """
        try:
            key = ("tool", run_id.int)
            told, outer = self._around(run_id, parent_run_id)
            self._note(run_id, told, key)
            if not told.run.is_told:
                return
            started = ToolStarted(
                tool_call_id=str(kwargs.get("tool_call_id") or run_id),
                tool_name=str((serialized or {}).get("name") or kwargs.get("name") or "unknown"),
                arguments=parsed(input_str) if inputs is None else inputs,
            )
            told.run.begin(key, started, parent=outer)
        except Exception as error:
            contained.note(error)

    def on_tool_end(self, output: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """
        End a tool call, as the status of its message says.
        """
        try:
            if isinstance(output, ToolMessage) and output.status == "error":
                self._end_operation(run_id, outcome="failure", error_message=str(output.content))
                return
            result = output.content if isinstance(output, ToolMessage) else output
            self._end_operation(run_id, result=_plain(result))
        except Exception as error:
            contained.note(error)

    def on_tool_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """
        End a tool call with what left it; one that waits for an answer has not failed.
        """
        with contained:
            if _is_a(error, "GraphInterrupt"):
                self._end_operation(run_id, outcome="deferred")
            elif _is_a(error, "ParentCommand"):
                self._end_operation(run_id)
            else:
                self._end_operation(run_id, error)

    def on_chat_model_start(
        self,
        serialized: dict[str, Any],
        messages: list[list[BaseMessage]],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """
        Begin a call of a chat model.
        """
        count = sum(len(batch) for batch in messages)
        self._begin_llm("chat", count, run_id, parent_run_id, metadata, kwargs)

    def on_llm_start(
        self,
        serialized: dict[str, Any],
        prompts: list[str],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """
        Begin a call of a model that completes text.
        """
        count = len(prompts)
        self._begin_llm("text_completion", count, run_id, parent_run_id, metadata, kwargs)

    def _begin_llm(
        self,
        operation: str,
        messages: int,
        run_id: UUID,
        parent_run_id: UUID | None,
        metadata: Mapping[str, Any] | None,
        kwargs: Mapping[str, Any],
    ) -> None:
        try:
            told, outer = self._around(run_id, parent_run_id)
            if not told.run.is_told:
                return
            said = metadata or {}
            params = kwargs.get("invocation_params") or {}
            model = said.get("ls_model_name") or params.get("model") or params.get("model_name")
            started = LlmStarted(
                provider=str(said.get("ls_provider") or ""),
                model=str(model or params.get("_type") or "unknown"),
                operation=operation,
                message_count=messages,
                tool_count=len(params.get("tools") or ()),
                temperature=said.get("ls_temperature"),
                max_tokens=said.get("ls_max_tokens"),
            )
            key = ("llm", run_id.int)
            self._note(run_id, told, key)
            told.run.begin(key, started, parent=outer)
        except Exception as error:
            contained.note(error)

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        """
        End a call of a model.
        """
        try:
            found = self._where.get(run_id.int)
            if found is not None:
                self._end_operation(run_id, **_used(found[0].run, response))
        except Exception as error:
            contained.note(error)

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """
        End a call of a model with what left it.
        """
        with contained:
            self._end_operation(run_id, error)

    def on_retriever_start(
        self,
        serialized: dict[str, Any],
        query: str,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        **kwargs: Any,
    ) -> None:
        """
        Remember which run the retriever works for.
        """
        found = None if parent_run_id is None else self._where.get(parent_run_id.int)
        if found is not None:
            self._note(run_id, *found)

    def on_retriever_end(
        self, documents: Sequence[Document], *, run_id: UUID, **kwargs: Any
    ) -> None:
        """
        Publish what was retrieved.
        """
        with contained:
            found = self._where.pop(run_id.int, None)
            if found is not None:
                told, key = found
                source = str(kwargs.get("name") or "retriever")
                told.run.publish(RetrievalCompleted(source=source, hits=len(documents)), parent=key)

    def _around(self, run_id: UUID, parent: UUID | None) -> tuple[_Told, Key | None]:
        """
        Return the run of a call, and the operation that it is inside of.
        """
        around = None if parent is None else self._where.get(parent.int)
        if around is None:
            # A call outside of every chain is a run of its own.
            return self._begin_run(run_id, None, {}), None
        told, outer = around
        return told, TURN if outer is None and told.run.is_open(TURN) else outer

    def _end_operation(
        self,
        run_id: UUID,
        error: BaseException | None = None,
        *,
        outcome: str | None = None,
        **fields: Any,
    ) -> None:
        number = run_id.int
        found = self._where.pop(number, None)
        if found is None:
            return
        told, key = found
        if key is not None and key[1] == number:
            told.run.end(key, error, outcome=outcome, **fields)
        if number == told.root:
            self._forget(told)
            self._end_run(told, error)

    def _note(self, run_id: UUID, told: _Told, key: Key | None) -> None:
        number = run_id.int
        told.ids.append(number)
        self._where[number] = (told, key)

    def _forget(self, told: _Told) -> None:
        for number in told.ids:
            self._where.pop(number, None)

    def _interrupt(self, told: _Told, error: BaseException) -> None:
        for interrupt in error.args[0] if error.args else ():
            if interrupt not in told.interrupts:
                told.interrupts.append(interrupt)

    def _pause(self, told: _Told) -> None:
        reason = "human_input"
        for interrupt in told.interrupts:
            actions = _actions(interrupt)
            if not actions:
                event = HumanInputRequested(request_id=str(interrupt.id))
                told.run.publish(event)
                continue
            reason = "approval"
            for number, action in enumerate(actions):
                told.run.publish(
                    ApprovalRequested(
                        approval_id=f"{interrupt.id}:{number}", prompt=str(action.get("name"))
                    )
                )
        told.run.publish(RunPaused(reason=reason))
        told.run.decide(outcome="deferred")
        if told.thread_id is not None:
            self.waiting[told.thread_id] = told.interrupts
            if len(self.waiting) > MAX_WAITING:
                self.waiting.pop(next(iter(self.waiting)), None)

    def _resume(self, told: _Told, answer: Any) -> None:
        told.run.publish(RunResumed())
        waiting = self.waiting.pop(told.thread_id or "", [])
        for interrupt in waiting:
            actions = _actions(interrupt)
            if not actions:
                told.run.publish(HumanInputReceived(request_id=str(interrupt.id)))
            decisions = answer.get("decisions", ()) if isinstance(answer, dict) else ()
            for number, (action, decision) in enumerate(zip(actions, decisions, strict=False)):
                self._tell_decision(told.run, f"{interrupt.id}:{number}", action, decision)

    def _tell_decision(
        self, run: Run, approval_id: str, action: Mapping[str, Any], decision: Mapping[str, Any]
    ) -> None:
        if decision.get("type") != "reject":
            run.publish(ApprovalGranted(approval_id=approval_id))
            return
        reason = str(decision.get("message") or "")
        run.publish(ApprovalDenied(approval_id=approval_id, reason=reason))
        # The framework calls nothing for a call that it does not make.
        key = ("denied", approval_id)
        name, arguments = str(action.get("name")), action.get("args")
        run.begin(key, ToolStarted(tool_name=name, arguments=arguments))
        run.end(key, outcome="denied", reason=reason, decided_by="user")


class _OneRun(HarkenHandler):
    """
    The handler of one run, which its caller begins and ends.
    """

    def __init__(self, handler: HarkenHandler, run: Run) -> None:
        super().__init__(run.bus)
        self._run = run
        self.waiting = handler.waiting

    def _new_run(self, run_id: UUID) -> Run:
        return self._run

    def _end_run(self, told: _Told, error: BaseException | None) -> None:
        pass


def _with_handler(config: RunnableConfig | None, handler: HarkenHandler) -> RunnableConfig:
    merged: RunnableConfig = {**config} if config else {}
    callbacks = merged.get("callbacks")
    if isinstance(callbacks, BaseCallbackManager):
        callbacks = callbacks.copy()
        callbacks.add_handler(handler)
        merged["callbacks"] = callbacks
    else:
        merged["callbacks"] = [*(callbacks or ()), handler]
    return merged


def _is_step(tags: Sequence[str]) -> bool:
    return any(tag.startswith(("graph:step", "seq:step")) for tag in tags)


def _is_a(error: BaseException, name: str) -> bool:
    # Told by name: LangGraph need not be installed.
    return any(kind.__name__ == name for kind in type(error).__mro__)


def _actions(interrupt: Any) -> Sequence[Mapping[str, Any]]:
    """
    Return the calls that the framework's middleware asks a person to approve, if it is that.
    """
    value = getattr(interrupt, "value", None)
    requests = value.get("action_requests") if isinstance(value, dict) else None
    return requests or ()


def _answer(outputs: Any) -> Any:
    messages = outputs.get("messages") if isinstance(outputs, dict) else None
    last = messages[-1] if messages else outputs
    return _plain(last.content if isinstance(last, BaseMessage) else last)


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (str, int, float, list, dict, tuple)):
        return value
    return str(value)


def _used(run: Run, response: LLMResult) -> dict[str, Any]:
    """
    Add to the usage of *run* what one call has used up; return it as fields of the call's end.
    """
    fields: dict[str, Any] = dict.fromkeys(
        (
            "input_tokens",
            "output_tokens",
            "reasoning_tokens",
            "cache_read_tokens",
            "cache_write_tokens",
        ),
        0,
    )
    reasons: list[str] = []
    for generation in (one for batch in response.generations for one in batch):
        message = generation.message if isinstance(generation, ChatGeneration) else None
        if not isinstance(message, AIMessage):
            continue
        said = message.response_metadata
        fields["response_model"] = said.get("model_name") or said.get("model")
        fields["response_id"] = message.id
        reason = said.get("finish_reason") or said.get("stop_reason")
        reasons += [str(reason)] if reason else []
        usage = message.usage_metadata
        if usage is None:
            continue
        read = usage.get("input_token_details") or {}
        written = usage.get("output_token_details") or {}
        fields["input_tokens"] += usage["input_tokens"]
        fields["output_tokens"] += usage["output_tokens"]
        fields["reasoning_tokens"] += written.get("reasoning") or 0
        fields["cache_read_tokens"] += read.get("cache_read") or 0
        fields["cache_write_tokens"] += read.get("cache_creation") or 0
    known = run.usage
    known.input_tokens += fields["input_tokens"]
    known.output_tokens += fields["output_tokens"]
    known.reasoning_tokens += fields["reasoning_tokens"]
    known.cached_tokens += fields["cache_read_tokens"]
    return {**fields, "finish_reasons": tuple(reasons)}
