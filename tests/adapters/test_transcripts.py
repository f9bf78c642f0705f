"""
Transcripts of agents, as events with the times at which things happened.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.adapters.laws import check_runs, nesting, runs_of, told

from harken import Bus, Envelope, Event
from harken.adapters.transcripts import READERS, Ingested, TranscriptClock, ingest
from harken.catalog import (
    BudgetExceeded,
    ContextCompacted,
    ErrorRaised,
    HumanInputRequested,
    LlmCompleted,
    McpConnected,
    McpFailed,
    PolicyEvaluated,
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunStarted,
    TextEmitted,
    ThinkingEmitted,
    ToolCompleted,
    ToolFailed,
    ToolStarted,
)
from harken.testing import Captured, capture

TRANSCRIPTS = Path(__file__).with_name("transcripts")

CLAUDE = (TRANSCRIPTS / "claude.jsonl").read_bytes().splitlines()


class Reading:
    """
    A transcript, and what was heard of it.
    """

    def __init__(self) -> None:
        self.clock = TranscriptClock()
        self.bus = Bus(clock=self.clock, capture_content={"arguments", "result", "text"})
        self.heard = Captured()
        self.bus.attach(self.heard)

    def __call__(self, format: str, lines: list[bytes] | list[dict[str, Any]]) -> Ingested:
        encoded = [one if isinstance(one, bytes) else json.dumps(one).encode() for one in lines]
        return ingest(self.bus, self.clock, format, encoded)

    def time_of(self, name: str, number: int = 0) -> str:
        found = [one for one in self.heard.envelopes if one.name == name][number]
        return found.time.isoformat(timespec="milliseconds").removesuffix("+00:00")


@pytest.fixture
def reading() -> Iterator[Reading]:
    """
    A reading; every operation that was told must have one end.
    """
    reading = Reading()
    yield reading
    reading.bus.close()
    check_runs(reading.heard)


def of(reading: Reading, kind: type[Event]) -> list[Any]:
    return reading.heard.of(kind)


def test_a_session_of_claude(reading: Reading) -> None:
    """
    Everything that Claude Code did is told, with its times, outcomes and usage.
    """
    done = reading("claude-stream-json", CLAUDE)

    assert Ingested(messages=13) == done
    assert [
        ("tool.failed", "failure"),
        ("tool.completed", "success"),
        ("tool.completed", "success"),
        ("tool.completed", "success"),
        ("run.completed", "success"),
    ] == told(reading.heard)
    (begun,) = of(reading, RunStarted)
    assert ("claude-sonnet-4-5", "anthropic") == (begun.model, begun.provider)
    (end,) = of(reading, RunCompleted)
    assert (1165, 63, 1000, 0.0125, 4, 4) == (
        end.input_tokens,
        end.output_tokens,
        end.cached_tokens,
        end.cost_usd,
        end.iterations,
        end.tool_calls,
    )
    assert ["I will look.", "big.log fills the disk."] == [
        one.text for one in of(reading, TextEmitted)
    ]
    assert 1 == len(of(reading, ThinkingEmitted))
    assert [("books",), ("mail",)] == [
        (one.server,) for one in [*of(reading, McpConnected), *of(reading, McpFailed)]
    ]
    assert [("Write", "deny")] == [(one.rule, one.decision) for one in of(reading, PolicyEvaluated)]
    assert {"5f1c"} == {item.session_id for item in reading.heard.envelopes}


def test_times_are_those_of_the_transcript(reading: Reading) -> None:
    """
    Each event has the time of its message, and durations are the differences.
    """
    reading("claude-stream-json", CLAUDE)

    assert "2026-03-01T10:00:00.000" == reading.time_of("run.started")
    assert "2026-03-01T10:00:03.200" == reading.time_of("tool.started")
    assert "2026-03-01T10:00:11.000" == reading.time_of("run.completed")
    ends = {one.tool_call_id: one.duration_ms for one in of(reading, ToolCompleted)}
    assert {"toolu_1": 2000, "toolu_4": 1000, "toolu_3": 3000} == ends
    assert [700] == [one.duration_ms for one in of(reading, ToolFailed)]


def test_what_a_subagent_does_is_inside_of_its_task(reading: Reading) -> None:
    """
    A tool call of an agent that another started is inside of the call that started it.
    """
    reading("claude-stream-json", CLAUDE)

    assert 1 == nesting(reading.heard).count("tool.started < tool.started")


def test_secrets_in_a_transcript_stay_in_it(reading: Reading) -> None:
    """
    Redaction goes over what is read as over what is published.
    """
    reading("claude-stream-json", CLAUDE)

    assert b"hunter2" not in b"".join(one.body for one in reading.heard.envelopes)


@pytest.mark.parametrize("length", range(1, len(CLAUDE)))
def test_a_truncated_transcript_says_so(reading: Reading, length: int) -> None:
    """
    Wherever it is cut off, what is open is closed, nobody knows how the run ended, and what it
    had used up is told.
    """
    reading("claude-stream-json", CLAUDE[:length])

    assert ("run.failed", "unknown") == told(reading.heard)[-1]
    (end,) = of(reading, RunFailed)
    assert "without a result" in end.error_message
    assert (end.input_tokens > 0) == (length > 1)


def test_a_line_that_is_cut_off_is_on_the_record(reading: Reading) -> None:
    """
    Half a line is no message; what could be read is told.
    """
    done = reading("claude-stream-json", [*CLAUDE[:3], CLAUDE[3][:100]])

    assert Ingested(messages=3, malformed=[4]) == done
    assert ["MalformedLine"] == [one.error_type for one in of(reading, ErrorRaised)]


def test_messages_that_nobody_knows_are_on_the_record(reading: Reading) -> None:
    """
    A new kind of message or of block is told once, and stops nothing.
    """
    strange = {"type": "assistant", "message": {"content": [{"type": "hologram"}, 7, None]}}

    reading("claude-stream-json", [CLAUDE[0], {"type": "novelty"}, strange, strange, CLAUDE[-1]])

    assert ["novelty", "content block hologram"] == [
        one.error_message.partition(":")[0] for one in of(reading, ErrorRaised)
    ]
    assert ("run.completed", "success") == told(reading.heard)[-1]


@pytest.mark.parametrize(
    ("result", "outcome"),
    [
        ({"subtype": "success", "is_error": True, "result": "API Error"}, "failure"),
        ({"subtype": "error_during_execution", "errors": ["boom"]}, "failure"),
        ({"subtype": "error_max_turns", "is_error": True}, "failure"),
        ({"subtype": "success", "terminal_reason": "aborted_tools"}, "cancelled"),
        ({"subtype": "success", "is_error": False, "result": ""}, "failure"),
    ],
)
def test_how_a_run_of_claude_ends(reading: Reading, result: dict[str, Any], outcome: str) -> None:
    """
    The most specific word of the result counts: its subtype may be "success" when it is none.
    """
    reading("claude-stream-json", [CLAUDE[0], {"type": "result", **result}])

    assert [outcome] == [outcome for _, outcome in told(reading.heard)]
    assert ("max_turns" in result["subtype"]) == bool(of(reading, BudgetExceeded))


def test_a_session_goes_on_after_a_result(reading: Reading) -> None:
    """
    What comes after a result is another run of the same session.
    """
    more = [
        {"type": "system", "subtype": "compact_boundary", "compact_metadata": {"pre_tokens": 9}},
        {"type": "result", "subtype": "success", "result": "Bye."},
    ]

    reading("claude-stream-json", [*CLAUDE, *[json.dumps(one).encode() for one in more]])

    assert 2 == len(runs_of(reading.heard))
    assert [9] == [one.tokens_before for one in of(reading, ContextCompacted)]


def test_what_codex_prints(reading: Reading) -> None:
    """
    Commands, changes, calls of MCP servers and messages of Codex are told; each turn is a run.
    """
    reading("codex-jsonl", (TRANSCRIPTS / "codex.jsonl").read_bytes().splitlines())

    assert [
        ("tool.failed", "failure"),
        ("tool.completed", "success"),
        ("tool.completed", "success"),
        ("run.completed", "success"),
        ("run.failed", "failure"),
    ] == told(reading.heard)
    assert ["shell", "apply_patch", "lookup"] == [one.tool_name for one in of(reading, ToolStarted)]
    assert ["builtin", "builtin", "mcp"] == [one.tool_type for one in of(reading, ToolStarted)]
    (end,) = of(reading, RunCompleted)
    assert (2400, 120, 2000, "Repaired.") == (
        end.input_tokens,
        end.output_tokens,
        end.cached_tokens,
        end.result,
    )
    assert ["usage limit reached"] == [one.error_message for one in of(reading, RunFailed)]


def test_a_session_that_codex_kept(reading: Reading) -> None:
    """
    A stored session has its times, and its usage is the sum of what it says.
    """
    reading("codex-jsonl", (TRANSCRIPTS / "codex-session.jsonl").read_bytes().splitlines())

    assert [("tool.completed", "success"), ("run.completed", "success")] == told(reading.heard)
    assert "2026-03-02T08:00:02.000" == reading.time_of("tool.started")
    assert [1500] == [one.duration_ms for one in of(reading, ToolCompleted)]
    (end,) = of(reading, RunCompleted)
    assert (250, 30, 180, 5) == (
        end.input_tokens,
        end.output_tokens,
        end.cached_tokens,
        end.reasoning_tokens,
    )


def test_what_codex_plans_asks_and_hands_on(reading: Reading) -> None:
    """
    A plan is text, a question waits for a person, and a call of another agent is a tool call.
    """
    call = {
        "id": "i2",
        "type": "collab_tool_call",
        "tool": "spawn_agent",
        "sender_thread_id": "t1",
        "receiver_thread_ids": ["t2"],
        "prompt": "Look.",
        "agents_states": {"t2": {"status": "errored", "message": "no"}},
        "status": "failed",
    }
    questions = [{"id": "q1", "header": "Scope", "question": "All of it?", "options": None}]
    reading(
        "codex-jsonl",
        [
            {"type": "turn.started"},
            {"type": "item.completed", "item": {"id": "i1", "type": "plan", "text": "1. Look."}},
            {"type": "item.plan.delta", "item_id": "i1", "delta": "1."},
            {"type": "request_user_input", "id": "t", "call_id": "c1", "questions": questions},
            {"type": "item.started", "item": {**call, "status": "in_progress"}},
            {"type": "item.completed", "item": call},
            {"type": "item.completed", "item": {"id": "i3", "type": "agent_message", "text": "x"}},
            {"type": "turn.completed", "usage": {"input_tokens": 1, "output_tokens": 1}},
        ],
    )

    assert ["1. Look.", "x"] == [one.text for one in of(reading, TextEmitted)]
    assert [("c1", "All of it?")] == [
        (one.request_id, one.question) for one in of(reading, HumanInputRequested)
    ]
    assert [("spawn_agent", "agent")] == [
        (one.tool_name, one.tool_type) for one in of(reading, ToolStarted)
    ]
    assert [("tool.failed", "failure"), ("run.completed", "success")] == told(reading.heard)
    assert [] == of(reading, ErrorRaised)


def test_a_call_that_claude_was_not_allowed(reading: Reading) -> None:
    """
    The result of a call that a rule forbids is an error, and the record says that it was denied;
    the decision is told once, though the run's end says it again.
    """
    block = {"type": "tool_use", "id": "c1", "name": "Bash", "input": {"command": "rm -rf /"}}
    answer = {"type": "tool_result", "tool_use_id": "c1", "content": "Denied.", "is_error": True}
    denial = {"tool_name": "Bash", "tool_use_id": "c1"}
    reading(
        "claude-stream-json",
        [
            {"type": "assistant", "message": {"id": "m1", "content": [block]}},
            {
                "type": "system",
                "subtype": "permission_denied",
                "decision_reason": "a deny rule",
                "message": "Denied.",
                **denial,
            },
            {"type": "user", "message": {"content": [answer]}},
            {
                "type": "result",
                "subtype": "success",
                "is_error": False,
                "result": "Sorry.",
                "permission_denials": [{**denial, "tool_input": block["input"]}],
            },
        ],
    )

    assert [("tool.denied", "denied"), ("run.completed", "success")] == told(reading.heard)
    assert [("Bash", "c1", "a deny rule")] == [
        (one.rule, one.subject, one.reason) for one in of(reading, PolicyEvaluated)
    ]


def test_a_turn_that_codex_was_stopped_in(reading: Reading) -> None:
    """
    A turn that somebody aborted was cancelled.
    """
    reading(
        "codex-jsonl",
        [
            {"type": "event_msg", "payload": {"type": "task_started"}},
            {"type": "event_msg", "payload": {"type": "turn_aborted", "reason": "interrupted"}},
        ],
    )

    assert ["interrupted"] == [one.reason for one in of(reading, RunCancelled)]


def test_other_things_that_codex_says(reading: Reading) -> None:
    """
    A call that somebody declined was denied; what nobody knows is told once; an error ends a turn.
    """
    search = {"id": "i1", "type": "web_search", "query": "disk"}
    declined = {"id": "i2", "type": "command_execution", "command": "rm", "status": "declined"}
    mcp = {"id": "i3", "type": "mcp_tool_call", "tool": "t", "error": {"message": "gone"}}

    reading(
        "codex-jsonl",
        [
            *({"type": "item.completed", "item": item} for item in (search, declined, mcp)),
            {"type": "item.completed", "item": {"type": "error", "message": "careful"}},
            {"type": "item.completed", "item": {"type": "hologram"}},
            {"type": "novelty"},
            {"type": "response_item", "payload": {"type": "hologram"}},
            {"type": "event_msg", "payload": {"type": "error", "message": "no network"}},
            {"type": "error", "message": "told after the end"},
        ],
    )

    assert [
        ("tool.completed", "success"),
        ("tool.denied", "denied"),
        ("tool.failed", "failure"),
        ("run.failed", "failure"),
    ] == told(reading.heard)
    assert ["gone"] == [one.error_message for one in of(reading, ToolFailed)]
    assert ["no network"] == [one.error_message for one in of(reading, RunFailed)]
    assert ["error", "item hologram", "novelty"] == [
        one.error_message.partition(":")[0] for one in of(reading, ErrorRaised)
    ]


def test_handoffs_and_guardrails_of_a_trace(reading: Reading) -> None:
    """
    What is no operation is told at its time, inside of what was open around it.
    """

    def span(number: int, data: dict[str, Any], **more: Any) -> dict[str, Any]:
        return {
            "object": "trace.span",
            "id": f"span_{number}",
            "trace_id": "trace_4bf92f3577b34da6a3ce929d0e0e4736",
            "parent_id": None if number == 1 else "span_1",
            "started_at": f"2026-03-01T10:00:0{number}+00:00",
            "ended_at": "2026-03-01T10:00:09",
            "span_data": data,
            **more,
        }

    usage = {"input_tokens": 5, "output_tokens": 2}
    failed = {"message": "boom", "data": None}

    reading(
        "openai-agents-trace",
        [
            span(1, {"type": "agent", "name": "clerk"}, error=failed),
            span(2, {"type": "generation", "model": "m-1", "usage": usage}),
            span(3, {"type": "handoff", "from_agent": "clerk", "to_agent": "expert"}),
            span(4, {"type": "guardrail", "name": "no-money", "triggered": True}),
        ],
    )

    assert ["agent.handoff", "guard.evaluated"] == [
        name for name in reading.heard.names if name.startswith(("agent.handoff", "guard"))
    ]
    (end,) = of(reading, RunFailed)
    assert ("boom", 5, 2) == (end.error_message, end.input_tokens, end.output_tokens)


def test_spans_of_opentelemetry(reading: Reading) -> None:
    """
    Spans come when they end, in any order, and are told in the order in which things happened,
    in the trace that they are from; what has no meaning is passed over, not what is inside of it.
    """
    reading("otel-genai", (TRANSCRIPTS / "otel.jsonl").read_bytes().splitlines())

    assert [
        "run.started",
        "llm.started < run.started",
        "tool.started < run.started",
    ] == nesting(reading.heard)
    assert [
        ("llm.completed", "success"),
        ("tool.failed", "failure"),
        ("run.completed", "success"),
    ] == told(reading.heard)
    assert {"4bf92f3577b34da6a3ce929d0e0e4736"} == {one.trace_id for one in reading.heard.envelopes}
    assert "2026-03-01T10:00:02.000" == reading.time_of("tool.started")
    assert [2500] == [one.duration_ms for one in of(reading, ToolFailed)]
    (end,) = of(reading, RunCompleted)
    assert (12, 3) == (end.input_tokens, end.output_tokens)
    assert (8, 1) == (end.cached_tokens, end.reasoning_tokens)
    assert [("tool_calls",)] == [one.finish_reasons for one in of(reading, LlmCompleted)]


def test_harkens_own_spans_come_back(reading: Reading, tmp_path: Path) -> None:
    """
    What SpanRecorder writes to a file can be read again.
    """
    from harken.sinks.otel import SpanRecorder
    from harken.sinks.otel.exporters import FileExporter

    bus = Bus()
    spans = tmp_path / "spans.jsonl"
    bus.attach(SpanRecorder(FileExporter(spans)))
    with (
        bus.operation(RunStarted(model="m-1", provider="acme")),
        bus.operation(ToolStarted(tool_call_id="c1", tool_name="search")),
    ):
        pass
    bus.close()

    reading("otel-genai", spans.read_bytes().splitlines())

    assert ["run.started", "tool.started < run.started"] == nesting(reading.heard)
    assert {"success"} == {outcome for _, outcome in told(reading.heard)}


def test_a_trace_of_the_openai_agents_sdk(reading: Reading) -> None:
    """
    What the SDK hands to an exporter is told as what happened.
    """
    pytest.importorskip("agents")
    from agents import Agent, Runner, function_tool, set_trace_processors
    from agents.testing import ScriptedModel, assistant_message, function_call
    from agents.tracing import TracingProcessor

    kept: list[Any] = []

    class Keep(TracingProcessor):
        def on_trace_start(self, trace: Any) -> None:
            kept.append(trace.export())

        def on_trace_end(self, trace: Any) -> None: ...

        def on_span_start(self, span: Any) -> None: ...

        def on_span_end(self, span: Any) -> None:
            kept.append(span.export())

        def shutdown(self) -> None: ...

        def force_flush(self) -> None: ...

    @function_tool
    def fail() -> str:
        raise ValueError("no such invoice")

    set_trace_processors([Keep()])
    model = ScriptedModel(
        [[function_call("fail", {}, call_id="c1")], [assistant_message("Sorry.")]]
    )
    asyncio.run(Runner.run(Agent(name="clerk", model=model, tools=[fail]), "?"))
    set_trace_processors([])

    reading("openai-agents-trace", [{"data": kept}])

    assert "tool.started < turn.started" in nesting(reading.heard)
    assert [("tool.failed", "failure"), ("run.completed", "success")] == told(
        reading.heard, "tool", "run"
    )


def test_a_trace_whose_spans_have_no_end(reading: Reading) -> None:
    """
    A trace that was cut off says that nobody knows how its run ended.
    """
    span = {
        "object": "trace.span",
        "id": "span_1",
        "trace_id": "trace_4bf92f3577b34da6a3ce929d0e0e4736",
        "parent_id": None,
        "started_at": "2026-03-01T10:00:00+00:00",
        "ended_at": None,
        "span_data": {"type": "agent", "name": "clerk"},
        "error": None,
    }

    reading("openai-agents-trace", [span])

    assert [("agent.failed", "orphaned"), ("run.failed", "unknown")] == told(reading.heard)


@pytest.mark.parametrize("format", READERS)
def test_nothing_that_is_read_raises(reading: Reading, format: str) -> None:
    """
    Whatever stands in a line, the reading goes on.
    """
    junk: list[bytes] = [
        b"",
        b"null",
        b"7",
        b'"text"',
        b"[]",
        b"[7, {}]",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"type": 7}',
        b'{"type": "assistant", "message": []}',
        b'{"type": "assistant", "message": {"content": [{"type": "tool_use"}]}}',
        b'{"type": "user", "message": {"content": [{"type": "tool_result"}]}}',
        b'{"type": "result", "usage": 7, "num_turns": "x", "total_cost_usd": null}',
        b'{"type": "item.completed", "item": {"type": "mcp_tool_call", "error": 7}}',
        b'{"type": "turn.completed", "usage": null}',
        b'{"type": "response_item", "payload": {"type": "function_call_output"}}',
        b'{"resourceSpans": [{"scopeSpans": [{"spans": [{"spanId": 7}]}]}]}',
        b'{"object": "trace.span", "started_at": "soon", "span_data": 7}',
        b'{"object": "trace.span", "started_at": "2026-03-01", "span_data": {}, "error": {}}',
    ]

    reading(format, junk)


def test_a_live_transcript_is_told_as_it_comes() -> None:
    """
    Without times in it, a transcript is told with those at which it came.
    """
    clock = TranscriptClock()
    bus = Bus(clock=clock)
    before = datetime.now(UTC)
    seen: list[list[str]] = []

    def lines() -> Iterator[bytes]:
        yield b'{"type": "system", "subtype": "init", "session_id": "s"}'
        seen.append(heard.names)
        yield b'{"type": "result", "subtype": "success", "result": "Done."}'

    with capture(bus) as heard:
        ingest(bus, clock, "claude-stream-json", lines())
    bus.close()

    assert [["run.started"]] == seen
    first: Envelope[Event] = heard.envelopes[0]
    assert before <= first.time.replace(microsecond=999_999)
