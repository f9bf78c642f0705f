"""
Pydantic AI: a capability that goes around a run, its requests to the model and its tools.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic_ai import (
    Agent,
    AgentRunResult,
    ApprovalRequired,
    CallDeferred,
    DeferredToolRequests,
    ModelRetry,
    RunContext,
    RunUsage,
    ToolDefinition,
    UsageLimitExceeded,
    __version__,
)
from pydantic_ai.capabilities import AbstractCapability, CapabilityOrdering
from pydantic_ai.capabilities.abstract import (
    RawToolArgs,
    ValidatedToolArgs,
    WrapModelRequestHandler,
    WrapRunHandler,
    WrapToolExecuteHandler,
    WrapToolValidateHandler,
)
from pydantic_ai.exceptions import RunCancelled, SkipToolExecution, SkipToolValidation
from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    ToolCallPart,
    ToolReturnPart,
)
from pydantic_ai.models import ModelRequestContext

from harken import Bus
from harken.adapters._runs import Run, contained, parsed
from harken.catalog import (
    ApprovalDenied,
    ApprovalGranted,
    ApprovalRequested,
    BudgetExceeded,
    LlmStarted,
    RunPaused,
    RunStarted,
    ToolStarted,
)

SOURCE = f"pydantic-ai/{__version__}"

_DEFERRALS = (ApprovalRequired, CallDeferred)


@dataclass
class Recorded(AbstractCapability[Any]):
    """
    A capability that publishes what an agent does: for the agent, or for one run of it.

    One object serves any number of runs, also at once. What a tool publishes itself is inside of
    its call, and a run that it starts is inside of its run.
    """

    bus: Bus

    async def run(self, agent: Agent[Any, Any], *args: Any, **options: Any) -> AgentRunResult[Any]:
        """
        Do what `agent.run()` does, as one run on the bus.
        """
        capabilities = options.pop("capabilities", None) or ()
        return await agent.run(*args, capabilities=[*capabilities, self], **options)

    def get_ordering(self) -> CapabilityOrdering:
        """
        Go around all others: what they decide about a call is part of how it ended.
        """
        return CapabilityOrdering(position="outermost")

    async def for_run(self, ctx: RunContext[Any]) -> AbstractCapability[Any]:
        """
        Return the capability of one run.
        """
        model = ctx.model
        started = RunStarted(
            model=model.model_name,
            provider=model.system,
            prompt=ctx.prompt if isinstance(ctx.prompt, str) else None,
        )
        return _RecordedRun(Run(self.bus, started, source=SOURCE, run_id=ctx.run_id))


class _RecordedRun(Recorded):
    """
    The same for one run.
    """

    def __init__(self, run: Run) -> None:
        super().__init__(run.bus)
        self._run = run
        self._before = RunUsage()
        # The calls that were told as denied.
        self._denied: set[str] = set()

    async def for_run(self, ctx: RunContext[Any]) -> AbstractCapability[Any]:
        return self

    async def wrap_run(
        self, ctx: RunContext[Any], *, handler: WrapRunHandler
    ) -> AgentRunResult[Any]:
        # A run that an agent delegates to another may count on one usage for both.
        self._before = copy(ctx.usage)
        with self._run as run:
            try:
                result = await handler()
            except BaseException as error:
                with contained:
                    self._note(ctx.usage)
                    self._settle(run, ctx, error)
                raise
            with contained:
                self._note(ctx.usage)
                self._finish(run, result.output)
        return result

    def _note(self, usage: RunUsage) -> None:
        known, before = self._run.usage, self._before
        known.input_tokens = usage.input_tokens - before.input_tokens
        known.output_tokens = usage.output_tokens - before.output_tokens
        known.cached_tokens = usage.cache_read_tokens - before.cache_read_tokens
        known.reasoning_tokens = usage.output_reasoning_tokens - before.output_reasoning_tokens
        known.iterations = usage.requests - before.requests

    def _settle(self, run: Run, ctx: RunContext[Any], error: BaseException) -> None:
        if isinstance(error, UsageLimitExceeded):
            run.publish(BudgetExceeded(budget_type="tokens", scope="run", action="stop"))
        if ctx.deadline is not None and not isinstance(error, Exception):
            # The run's own time limit comes as a cancellation.
            if datetime.now(UTC) >= ctx.deadline:
                run.decide_finally(outcome="timeout", error_type="RunTimedOut")
        elif isinstance(error, RunCancelled) and not isinstance(error, TimeoutError):
            run.decide_finally(outcome="cancelled", reason=str(error))

    def _finish(self, run: Run, output: Any) -> None:
        if not isinstance(output, DeferredToolRequests):
            run.decide(result=output)
            return
        for call in output.approvals:
            run.publish(
                ApprovalRequested(
                    approval_id=call.tool_call_id, subject=call.tool_call_id, prompt=call.tool_name
                )
            )
        reason = "approval" if output.approvals else "checkpoint"
        run.publish(RunPaused(reason=reason))
        run.decide(outcome="deferred")

    async def wrap_model_request(
        self,
        ctx: RunContext[Any],
        *,
        request_context: ModelRequestContext,
        handler: WrapModelRequestHandler,
    ) -> ModelResponse:
        if not self._run.is_told:
            return await handler(request_context)
        with contained:
            self._note_denied(request_context.messages)
        settings = request_context.model_settings or {}
        model = request_context.model
        started = LlmStarted(
            provider=model.system,
            model=model.model_name,
            streaming=request_context.streaming,
            message_count=len(request_context.messages),
            tool_count=len(request_context.model_request_parameters.function_tools),
            temperature=settings.get("temperature"),
            max_tokens=settings.get("max_tokens"),
        )
        with self._run.step(started) as step:
            response = await handler(request_context)
            with contained:
                usage = response.usage
                finish = response.finish_reason
                step.decide(
                    response_model=response.model_name,
                    response_id=response.provider_response_id,
                    input_tokens=usage.input_tokens,
                    output_tokens=usage.output_tokens,
                    reasoning_tokens=usage.output_reasoning_tokens,
                    cache_read_tokens=usage.cache_read_tokens,
                    cache_write_tokens=usage.cache_write_tokens,
                    finish_reasons=() if finish is None else (finish,),
                )
        return response

    def _note_denied(self, messages: Sequence[ModelMessage]) -> None:
        """
        Put calls that somebody denied on the record: the framework runs no hook for them.
        """
        last = messages[-1] if messages else None
        if not isinstance(last, ModelRequest):
            return
        for part in last.parts:
            if not isinstance(part, ToolReturnPart) or part.outcome != "denied":
                continue
            call_id = part.tool_call_id
            if call_id in self._denied:
                continue
            self._denied.add(call_id)
            started = ToolStarted(tool_call_id=call_id, tool_name=part.tool_name)
            self.bus.publish(ApprovalDenied(approval_id=call_id, reason=str(part.content)))
            with self._run.step(started) as step:
                step.decide(outcome="denied", reason=str(part.content), decided_by="user")

    async def wrap_tool_validate(
        self,
        ctx: RunContext[Any],
        *,
        call: ToolCallPart,
        tool_def: ToolDefinition,
        args: RawToolArgs,
        handler: WrapToolValidateHandler,
    ) -> ValidatedToolArgs:
        try:
            return await handler(args)
        except (*_DEFERRALS, SkipToolValidation):
            raise
        except Exception as error:
            # A call whose arguments are none never gets as far as to its tool.
            with self._run.step(_started(call, args)) as step:
                step.decide(f"{error}", outcome="failure", error_type=type(error).__name__)
            raise

    async def wrap_tool_execute(
        self,
        ctx: RunContext[Any],
        *,
        call: ToolCallPart,
        tool_def: ToolDefinition,
        args: ValidatedToolArgs,
        handler: WrapToolExecuteHandler,
    ) -> Any:
        if not self._run.is_told:
            return await handler(args)
        if ctx.tool_call_approved:
            with contained:
                self.bus.publish(ApprovalGranted(approval_id=call.tool_call_id))
        with self._run.step(_started(call, args)) as step:
            try:
                result = await handler(args)
            except _DEFERRALS:
                step.decide(outcome="deferred")
                raise
            except SkipToolExecution as skipped:
                step.decide(result=skipped.result, from_cache=True)
                raise
            except Exception as error:
                step.decide(error, outcome="timeout" if _timed_out(error) else None)
                raise
            step.decide(result=result)
        return result


def _started(call: ToolCallPart, args: Any) -> ToolStarted:
    return ToolStarted(
        tool_call_id=call.tool_call_id,
        tool_name=call.tool_name,
        arguments=parsed(args),
    )


def _timed_out(error: BaseException) -> bool:
    """
    Whether the framework gave up waiting for a tool: it asks the model to try again then.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, TimeoutError):
            return True
        if isinstance(cause, ModelRetry) and isinstance(cause.__context__, TimeoutError):
            return str(cause).startswith("Timed out after")
        cause = cause.__cause__
    return False
