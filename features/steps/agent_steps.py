"""
What the agent does.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import datetime

from agent import SPAN, InvoiceDisputed, InvoicePaid, call_tool, open_pull_request
from behave import given, when
from scene import Scene, bus_of, noting

import harken
from harken import Bus
from harken.catalog import (
    ContextAssembled,
    CredentialIssued,
    LlmChunk,
    LlmCompleted,
    LlmStarted,
    PlanCreated,
    PrCreated,
    RunStarted,
    ToolCompleted,
    ToolStarted,
    TurnStarted,
)

# One tool call, one pull request, one invoice.


@when("the agent calls a tool")
def calls_a_tool(context: Scene) -> None:
    context.worked = False
    with noting(context), bus_of(context).operation(ToolStarted(tool_name="search")):
        context.worked = True


@given('the agent has called the tool "{name}" {count:d} time')
@given('the agent has called the tool "{name}" {count:d} times')
def calls_the_tool(context: Scene, name: str, count: int) -> None:
    for _ in range(count):
        call_tool(context.bus, name)


@when('the agent calls the tool "{name}" {count:d} times, and once in vain')
def calls_the_tool_in_vain(context: Scene, name: str, count: int) -> None:
    calls_the_tool(context, name, count)
    with context.bus.operation(ToolStarted(tool_name=name)) as call:
        call.fail("nothing found")


@when("the agent calls {count:d} different tools")
def calls_different_tools(context: Scene, count: int) -> None:
    for number in range(count):
        call_tool(context.bus, f"tool-{number}")


@when("the agent opens a pull request")
def opens_a_pull_request(context: Scene) -> None:
    with noting(context):
        open_pull_request(bus_of(context))


@when("the agent opens a pull request and closes the bus")
def opens_a_pull_request_and_closes(context: Scene) -> None:
    open_pull_request(context.bus)
    context.bus.close()


@when("the agent opens {count:d} pull requests")
def opens_pull_requests(context: Scene, count: int) -> None:
    with noting(context):
        for number in range(1, count + 1):
            open_pull_request(bus_of(context), number)


@when("the agent opens {count:d} pull requests with {size:d} letters each")
def opens_large_pull_requests(context: Scene, count: int, size: int) -> None:
    for number in range(1, count + 1):
        context.bus.publish(PrCreated(url=f"/pull/{number}", branch="x" * size))


@when("the agent calls a tool and opens a pull request")
def calls_a_tool_and_opens_a_pull_request(context: Scene) -> None:
    call_tool(context.bus)
    open_pull_request(context.bus)


@when("the agent opens a pull request inside a tool call")
def opens_a_pull_request_inside_a_tool_call(context: Scene) -> None:
    with context.bus.operation(ToolStarted(tool_name="forge")):
        open_pull_request(context.bus)


@when("the agent pays an invoice, disputes another one and opens a pull request")
def pays_disputes_and_opens(context: Scene) -> None:
    context.bus.publish(InvoicePaid())
    context.bus.publish(InvoiceDisputed())
    open_pull_request(context.bus)


@when('the agent asks whether anybody listens to "{name}"')
def asks_whether_anybody_listens(context: Scene, name: str) -> None:
    context.answer = context.bus.enabled(harken.find(name))


# How tool calls end.


@when("the agent's tool {does:Ending}")
def tool_does(context: Scene, does: Callable[[Bus], None]) -> None:
    try:
        does(context.bus)
    except (ValueError, TimeoutError) as error:
        context.error = error


@when("the agent's tool {does:Ending} {count:d} times, and the agent ends")
def tool_does_often(context: Scene, does: Callable[[Bus], None], count: int) -> None:
    for _ in range(count):
        tool_does(context, does)
    context.bus.close()


@when("the agent's tool fails with a message of several lines and terminal controls")
def tool_fails_with_controls(context: Scene) -> None:
    with context.bus.operation(ToolStarted(tool_name="search")) as call:
        call.fail('no\n{"level":"info","message":"all is well"}\n\x1b[2J\u202e\x9b31m')


@when('the agent says that its tool ended as "{outcome}"')
def says_that_its_tool_ended_as(context: Scene, outcome: str) -> None:
    with context.bus.operation(ToolStarted(tool_name="search")) as call:
        call.fail(outcome=outcome)


@given("the agent has called a tool and forgotten about it")
def has_forgotten_a_call(context: Scene) -> None:
    context.bus.operation(ToolStarted(tool_name="search")).start()


@when('the agent says that the call "{key}" has ended, and then that it has started')
def ends_before_it_starts(context: Scene, key: str) -> None:
    context.bus.publish(ToolCompleted(tool_name="search", tool_call_id=key))
    context.bus.publish(ToolStarted(tool_name="search", tool_call_id=key))


@when('the agent says that the calls {keys:Names} have started, and that "{key}" has ended')
def starts_and_ends_by_key(context: Scene, keys: list[str], key: str) -> None:
    for one in keys:
        context.bus.publish(ToolStarted(tool_name="search", tool_call_id=one))
    context.bus.publish(ToolCompleted(tool_name="search", tool_call_id=key))


@when("the agent says that a call has ended of which it told no start, and flushes the bus")
def ends_what_never_started(context: Scene) -> None:
    context.bus.publish(ToolCompleted(tool_name="search", tool_call_id="c-1"))
    context.report = context.bus.flush()


@given("the agent has begun a run and a tool call in it, and forgotten about both")
def has_forgotten_a_run(context: Scene) -> None:
    context.bus.operation(RunStarted()).start()
    context.bus.operation(ToolStarted(tool_name="search")).start()


@when("the agent ends the same tool call twice")
def ends_the_same_call_twice(context: Scene) -> None:
    call = context.bus.operation(ToolStarted(tool_name="search")).start()
    call.end()
    call.end()


@when("the agent calls {tools:Names} at once, and they end the other way round")
def calls_at_once(context: Scene, tools: list[str]) -> None:
    calls = [context.bus.operation(ToolStarted(tool_name=name)).start() for name in tools]
    for call in reversed(calls):
        call.end()


@when("a run is cancelled in the middle of {count:d} parallel tool calls")
def run_is_cancelled(context: Scene, count: int) -> None:
    async def main() -> None:
        at_work = asyncio.Semaphore(0)

        async def tool() -> None:
            async with context.bus.operation(ToolStarted(tool_name="search")):
                at_work.release()
                await asyncio.sleep(60)

        async def run() -> None:
            async with context.bus.operation(RunStarted()), asyncio.TaskGroup() as group:
                for _ in range(count):
                    group.create_task(tool())

        task = asyncio.create_task(run())
        for _ in range(count):
            await at_work.acquire()
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(main())


# Scopes.


@when('"{actor}" calls a tool in run "{run_id}" of session "{session_id}"')
def calls_in_a_run(context: Scene, actor: str, run_id: str, session_id: str) -> None:
    with harken.scope(actor=actor, run_id=run_id, session_id=session_id):
        call_tool(context.bus)


@when('the agent opens 2 pull requests in run "{run_id}", and a third one afterwards')
def opens_in_a_run(context: Scene, run_id: str) -> None:
    with harken.scope(run_id=run_id):
        open_pull_request(context.bus, 1)
        open_pull_request(context.bus, 2)
    open_pull_request(context.bus, 3)


@when('a run calls a tool, inside of run "{run_id}"')
def calls_in_a_nested_run(context: Scene, run_id: str) -> None:
    with (
        harken.scope(run_id=run_id),
        context.bus.operation(RunStarted()),
        context.bus.operation(RunStarted()),
    ):
        call_tool(context.bus)


@when("the runs {runs:Names} call {count:d} tools each, side by side")
def runs_side_by_side(context: Scene, runs: list[str], count: int) -> None:
    async def run(run_id: str) -> None:
        with harken.scope(run_id=run_id):
            for _ in range(count):
                async with context.bus.operation(ToolStarted(tool_name="search")):
                    await asyncio.sleep(0)

    async def main() -> None:
        await asyncio.gather(*map(run, runs))

    asyncio.run(main())


@when('a thread that is bound to run "{run_id}" calls a tool')
def bound_thread(context: Scene, run_id: str) -> None:
    with harken.scope(run_id=run_id):
        thread = threading.Thread(target=harken.bind(call_tool), args=(context.bus,))
    thread.start()
    thread.join()


def run_program(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env=harken.child_env(),
        capture_output=True,
        text=True,
        check=True,
    )


@when("the agent starts a program inside a tool call")
def starts_a_program(context: Scene) -> None:
    code = "import harken; print(harken.current_context()['trace_id'])"
    with context.bus.operation(ToolStarted(tool_name="python")):
        context.ran = run_program(code)


@when("the agent sends a request inside a tool call")
def sends_a_request(context: Scene) -> None:
    with context.bus.operation(ToolStarted(tool_name="http")):
        context.headers = harken.inject({})


@when('the agent calls a tool for the tenant "{tenant}"')
def calls_for_a_tenant(context: Scene, tenant: str) -> None:
    with harken.scope(tenant=tenant):
        call_tool(context.bus)


@when('the agent starts a program in run "{run_id}" of session "{session_id}"')
def starts_a_program_in_a_run(context: Scene, run_id: str, session_id: str) -> None:
    code = """
import os
from harken import Bus
from harken.catalog import PrCreated

bus = Bus()
bus.subscribe(lambda envelope: None)
envelope = bus.publish(PrCreated(url="/pull/1"))
print(envelope.session_id, envelope.parent_run_id, os.environ["BAGGAGE"].partition(",")[0])
"""
    with harken.scope(run_id=run_id, session_id=session_id):
        context.ran = run_program(code)


# Arguments and content.


@when('the agent calls a tool with the argument "{name}" set to "{value}"')
def calls_with_argument(context: Scene, name: str, value: str) -> None:
    arguments = {name: value}
    with context.bus.operation(ToolStarted(tool_name="search", arguments=arguments)) as call:
        call.complete(result_size=12)


@when('the agent searches for "{query}" and finds "{result}"')
def searches(context: Scene, query: str, result: str) -> None:
    arguments = {"q": query}
    with context.bus.operation(ToolStarted(tool_name="search", arguments=arguments)) as call:
        call.complete(result=result)


@when('the agent searches for "{query}" and then changes its arguments')
def searches_and_changes(context: Scene, query: str) -> None:
    arguments = {"q": query}
    with context.bus.operation(ToolStarted(tool_name="search", arguments=arguments)):
        arguments["q"] = "something else"
    context.bus.close()


@when("the agent searches for a text of {length:d} letters")
def searches_for_a_text(context: Scene, length: int) -> None:
    with context.bus.operation(ToolStarted(tool_name="search", arguments={"q": "x" * length})):
        pass


@when('the agent tells of a pull request that it opened at "{time}"')
def tells_late(context: Scene, time: str) -> None:
    context.bus.publish(PrCreated(url="/pull/1"), time=datetime.fromisoformat(time))


# Models, plans, context, credentials.


@when("the agent asks a model and opens a pull request")
def asks_a_model_and_opens(context: Scene) -> None:
    with context.bus.operation(LlmStarted(model="m-1", provider="acme")):
        pass
    open_pull_request(context.bus)


COUNTS = {"once": 1, "twice": 2}


@when(
    'the agent asks the model "{model}" {times:w}, for {read:d} tokens in, {written:d} tokens out '
    "and {cost:f} US dollars each"
)
def asks_the_model(
    context: Scene, model: str, times: str, read: int, written: int, cost: float
) -> None:
    for _ in range(COUNTS[times]):
        with context.bus.operation(LlmStarted(model=model, provider="acme")) as call:
            call.complete(input_tokens=read, output_tokens=written, cost_usd=cost)


@when("the agent reports a model's cost as NaN")
def reports_nan(context: Scene) -> None:
    context.bus.publish(LlmCompleted(llm_call_id="l-1", model="m-1", cost_usd=float("nan")))


@when("a model's answer arrives in {count:d} pieces")
def answer_arrives_in_pieces(context: Scene, count: int) -> None:
    for index in range(count):
        context.bus.publish(LlmChunk(llm_call_id="l-1", index=index))


@when("the agent calls a tool while a model's answer arrives in {count:d} pieces")
def calls_while_answer_arrives(context: Scene, count: int) -> None:
    with context.bus.operation(ToolStarted(tool_name="search")):
        answer_arrives_in_pieces(context, count)


@when("the agent carries out {done:d} plans and gives up {given_up:d}")
def carries_out_plans(context: Scene, done: int, given_up: int) -> None:
    for _ in range(done):
        with context.bus.operation(PlanCreated()):
            pass
    for _ in range(given_up):
        with context.bus.operation(PlanCreated()) as plan:
            plan.cancel("not needed any more")


@when("the agent assembles a context of {fragments:d} fragments that uses {share:f} of its budget")
def assembles_a_context(context: Scene, fragments: int, share: float) -> None:
    context.bus.publish(ContextAssembled(fragments=fragments, budget_utilization=share))


@when('the agent is given a credential for "{scope}" inside a tool call')
def is_given_a_credential_inside(context: Scene, scope: str) -> None:
    with context.bus.operation(ToolStarted(tool_name="search")):
        context.bus.publish(CredentialIssued(credential_id="k-1", scope=scope))


# Traces.


@when("the agent calls a tool in a turn of a run")
def calls_in_a_turn(context: Scene) -> None:
    with (
        context.bus.operation(RunStarted()),
        context.bus.operation(TurnStarted(iteration=1)),
        context.bus.operation(ToolStarted(tool_name="search")),
    ):
        pass


@when('a request with the trace "{trace_id}" runs the phases {phases:Names}')
def request_runs_phases(context: Scene, trace_id: str, phases: list[str]) -> None:
    for phase in phases:
        with (
            harken.scope(traceparent=f"00-{trace_id}-{SPAN}-01", phase=phase),
            context.bus.operation(RunStarted()),
            context.bus.operation(ToolStarted(tool_name="search")),
        ):
            pass


@when("the application makes a span of its own inside a tool call")
def makes_a_span_inside(context: Scene) -> None:
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider

    tracer = TracerProvider().get_tracer("application")
    with (
        context.bus.operation(ToolStarted(tool_name="search")),
        tracer.start_as_current_span("fetch") as span,
    ):
        assert isinstance(span, ReadableSpan)
        context.their_parent = span.parent


@when("the agent calls a tool inside a span of the application")
def calls_inside_a_span(context: Scene) -> None:
    from opentelemetry.sdk.trace import TracerProvider

    tracer = TracerProvider().get_tracer("application")
    with tracer.start_as_current_span("handle request") as span:
        context.span = span.get_span_context()
        call_tool(context.bus)
