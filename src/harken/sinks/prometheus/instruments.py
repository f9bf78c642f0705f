"""
The instruments as data: each metric, its labels, and which events feed it.

Domain metrics get the namespace of the `PrometheusInstrumenter` in front; harken's own are always
``harken_*``. A counter is exposed with ``_total`` behind its name. Durations are in seconds, money
in US dollars.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from inspect import getattr_static
from operator import attrgetter
from typing import Protocol, TypeAlias, TypeGuard

from harken import Envelope, Event, Health, Outcome, SubscriberHealth
from harken.sinks.prometheus.rows import (
    AUDITED,
    BusInstrument,
    Instrument,
    Kind,
    Label,
    Read,
    SinkInstrument,
    adds,
    closes,
    counter,
    counts,
    creates,
    duration,
    field,
    gauge,
    given,
    histogram,
    number,
    observes,
    opens,
    sets,
)


def _agent_slug(envelope: Envelope[Event]) -> object:
    actor = envelope.actor
    if actor is not None and actor.startswith("agent:"):
        return actor[6:]
    return envelope.attributes.get("agent_slug")


def _session_slug_read(envelope: Envelope[Event]) -> object:
    return _agent_slug(envelope) or _slug_field.read(envelope)


def _session_slug_shown(envelope: Envelope[Event]) -> object:
    return _agent_slug(envelope) or _slug_field.show(envelope)


def _outcome_or_started(envelope: Envelope[Event]) -> object:
    return envelope.outcome or "started"


# A scope may hold paths, urls and ids; its first word says of which class it is.
_first_word = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_scope = field("scope")


def _scope_class(value: object) -> object:
    word = _first_word.match(value) if isinstance(value, str) else None
    return word.group() if word else None


OUTCOMES = tuple(outcome.value for outcome in Outcome)

_slug_field = field("agent_slug")
SLUG = Label(_agent_slug, _agent_slug)
SESSION_SLUG = Label(_session_slug_read, _session_slug_shown)
STATUS = Label(attrgetter("outcome"), attrgetter("outcome"), OUTCOMES, ("outcome",))
MODEL = field("model")
PROVIDER = field("provider")
OPERATION = field("operation")
TOOL = field("tool_name")
QUEUE = field("queue")
COMMAND = field("command")
SCOPE_CLASS = Label(
    lambda envelope: _scope_class(_scope.read(envelope)),
    lambda envelope: _scope_class(_scope.show(envelope)),
)

RUN_ENDS = ("run.completed", "run.failed", "run.cancelled")
PHASE_ENDS = ("phase.completed", "phase.failed")
PLAN_ENDS = ("plan.applied", "plan.failed", "plan.cancelled")
TOOL_ENDS = ("tool.completed", "tool.failed", "tool.denied")
LLM_ENDS = ("llm.completed", "llm.failed")

BUDGETS = ("turns", "tokens", "tool_calls", "cost", "duration", "pipelines", "credentials")

MILLISECONDS = 1000.0

# The first three are the OpenTelemetry GenAI conventions' for workflows, calls and call counts.
LONG = (1.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0)
CALL = tuple(0.01 * 2**power for power in range(14))
FAST = (*(float(f"{digit}e{power}") for power in range(-5, 0) for digit in (1, 2.5, 5)), 1.0)
COUNT = tuple(2.0**power for power in range(8))
FRAGMENTS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0)
UTILIZATION = (0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 1.0, 1.1)


def _stalled(envelope: Envelope[Event]) -> object:
    return float(getattr(envelope.event, "stalled", False))


def _forwarding(kind: Kind, name: str, help: str, value: Read | None = None) -> Instrument:
    labels = {"source": field("source"), "target": field("target")}
    feeds = sets if kind == "gauge" else adds
    feed = feeds(value or number(name), "forward.measured")
    return Instrument(f"forward_{name}", kind, help, labels, (feed,), merge="last", prefix="harken")


INSTRUMENTS: tuple[Instrument, ...] = (
    gauge(
        "sessions_active",
        "Open sessions, one series of value 1 for each.",
        {"agent_slug": SESSION_SLUG},
        opens("session.started"),
        closes("session.ended"),
        slots=True,
    ),
    counter(
        "tasks",
        "Runs that ended.",
        {"agent_slug": SLUG, "task_type": field("task_type"), "status": STATUS},
        creates("run.started"),
        counts(*RUN_ENDS),
        exemplars=True,
    ),
    histogram(
        "task_duration_seconds",
        "Duration of runs in seconds.",
        {"agent_slug": SLUG, "task_type": field("task_type"), "status": STATUS},
        LONG,
        observes(duration, *RUN_ENDS),
        exemplars=True,
    ),
    histogram(
        "task_iterations",
        "Iterations of a run.",
        {"agent_slug": SLUG},
        COUNT,
        observes(number("iterations"), *RUN_ENDS),
    ),
    histogram(
        "task_tool_calls",
        "Tool calls of a run.",
        {"agent_slug": SLUG},
        COUNT,
        observes(number("tool_calls"), *RUN_ENDS),
    ),
    histogram(
        "phase_duration_seconds",
        "Duration of phases, such as the clone of a repository, in seconds.",
        {"phase": field("phase")},
        LONG,
        observes(duration, *PHASE_ENDS),
        exemplars=True,
    ),
    counter(
        "tokens",
        "Tokens that models read and wrote.",
        {"agent_slug": SLUG, "model": MODEL, "token_type": given("input", "output")},
        creates("llm.started"),
        adds(number("input_tokens"), "llm.completed", under={"token_type": "input"}),
        adds(number("output_tokens"), "llm.completed", under={"token_type": "output"}),
    ),
    counter(
        "cached_input_tokens",
        "Input tokens that were read from or written to a cache; a part of the input tokens.",
        {"agent_slug": SLUG, "model": MODEL, "cache": given("read", "write")},
        creates("llm.started"),
        adds(number("cache_read_tokens"), "llm.completed", under={"cache": "read"}),
        adds(number("cache_write_tokens"), "llm.completed", under={"cache": "write"}),
    ),
    counter(
        "reasoning_output_tokens",
        "Output tokens of reasoning; a part of the output tokens.",
        {"agent_slug": SLUG, "model": MODEL},
        creates("llm.started"),
        adds(number("reasoning_tokens"), "llm.completed"),
    ),
    gauge(
        "queue_depth",
        "Tasks that wait in a queue.",
        {"queue": QUEUE},
        sets(number("depth"), "task.enqueued", "task.dequeued"),
        merge="last",
    ),
    histogram(
        "queue_wait_seconds",
        "Time that tasks waited in a queue, in seconds.",
        {"queue": QUEUE},
        LONG,
        observes(number("wait_ms"), "task.dequeued", per=MILLISECONDS),
        exemplars=True,
    ),
    counter(
        "prs_created",
        "Pull requests that were created.",
        {"agent_slug": SLUG},
        creates("run.started"),
        counts("pr.created"),
    ),
    counter(
        "credentials_issued",
        "Credentials that were issued, by the first word of their scope.",
        {"agent_slug": SLUG, "scope_class": SCOPE_CLASS},
        creates("run.started", "credential.denied"),
        counts("credential.issued"),
    ),
    counter("plans", "Plans that ended.", {"status": STATUS}, counts(*PLAN_ENDS)),
    histogram(
        "plan_duration_seconds",
        "Duration of plans, from created to applied, failed or cancelled, in seconds.",
        {"status": STATUS},
        LONG,
        observes(duration, *PLAN_ENDS),
        exemplars=True,
    ),
    gauge(
        "plans_in_progress",
        "Plans that were created and have not ended.",
        {},
        opens("plan.created"),
        closes(*PLAN_ENDS),
    ),
    counter(
        "tool_calls",
        "Tool calls that ended.",
        {"tool": TOOL, "status": STATUS},
        creates("tool.started"),
        counts(*TOOL_ENDS),
    ),
    histogram(
        "tool_call_duration_seconds",
        "Duration of tool calls in seconds.",
        {"tool": TOOL, "status": STATUS},
        CALL,
        observes(duration, *TOOL_ENDS),
        exemplars=True,
    ),
    gauge(
        "tool_calls_in_progress",
        "Tool calls that were started and have not ended.",
        {},
        opens("tool.started"),
        closes(*TOOL_ENDS),
    ),
    counter(
        "llm_requests",
        "Requests to models that ended.",
        {"provider": PROVIDER, "model": MODEL, "operation": OPERATION, "status": STATUS},
        creates("llm.started"),
        counts(*LLM_ENDS),
    ),
    histogram(
        "llm_request_duration_seconds",
        "Duration of requests to models in seconds.",
        {"provider": PROVIDER, "model": MODEL, "operation": OPERATION},
        CALL,
        observes(duration, *LLM_ENDS),
        exemplars=True,
    ),
    histogram(
        "llm_time_to_first_chunk_seconds",
        "Time to the first chunk of a model's answer, in seconds.",
        {"provider": PROVIDER, "model": MODEL},
        CALL,
        observes(number("ttft_ms"), "llm.completed", per=MILLISECONDS),
        exemplars=True,
    ),
    counter(
        "llm_cost_usd",
        "Cost of requests to models in US dollars, where it is known.",
        {"agent_slug": SLUG, "model": MODEL},
        creates("llm.started"),
        adds(number("cost_usd"), "llm.completed"),
    ),
    counter(
        "context_assemblies",
        "Contexts that were assembled.",
        {"status": STATUS},
        counts("context.assembled"),
    ),
    histogram(
        "context_assembly_duration_seconds",
        "Duration of context assemblies in seconds.",
        {},
        CALL,
        observes(duration, "context.assembled"),
        exemplars=True,
    ),
    histogram(
        "context_fragments",
        "Fragments of an assembled context.",
        {},
        FRAGMENTS,
        observes(number("fragments"), "context.assembled"),
    ),
    histogram(
        "context_budget_utilization_ratio",
        "Share of its token budget that an assembled context uses; 1 is all of it.",
        {},
        UTILIZATION,
        observes(number("budget_utilization"), "context.assembled"),
    ),
    counter(
        "policy_evaluations",
        "Policy decisions.",
        {"decision": field("decision", "allow", "deny", "warn", "escalate", "audit")},
        counts("policy.evaluated"),
    ),
    counter(
        "guard_violations",
        "Violations that a guard found, by what was done about them.",
        {"guard": field("guard_name"), "action": field("action_taken")},
        creates("guard.evaluated"),
        counts("guard.violated"),
    ),
    counter(
        "approvals",
        "Approvals that were decided, or expired.",
        {"decision": given("granted", "denied", "expired")},
        counts("approval.granted", under={"decision": "granted"}),
        counts("approval.denied", under={"decision": "denied"}),
        counts("approval.expired", under={"decision": "expired"}),
    ),
    histogram(
        "approval_wait_seconds",
        "Time that the agent waited for a person, in seconds.",
        {},
        LONG,
        observes(
            number("wait_ms"),
            "approval.granted",
            "approval.denied",
            "approval.expired",
            "human_input.received",
            per=MILLISECONDS,
        ),
        exemplars=True,
    ),
    counter(
        "questions_asked",
        "Questions that were put to people.",
        {"kind": given("approval", "human_input")},
        counts("approval.requested", under={"kind": "approval"}),
        counts("human_input.requested", under={"kind": "human_input"}),
    ),
    counter(
        "questions_settled",
        "Questions that are open no more: answered, or expired; whichever process had asked them.",
        {"kind": given("approval", "human_input")},
        counts(
            "approval.granted", "approval.denied", "approval.expired", under={"kind": "approval"}
        ),
        counts("human_input.received", "human_input.timed_out", under={"kind": "human_input"}),
    ),
    counter(
        "pipelines_triggered",
        "Pipelines that were triggered.",
        {"pipeline_type": field("kind", usual=("plan", "apply", "test"))},
        counts("pipeline.triggered"),
    ),
    counter(
        "budget_warnings",
        "Warnings that a budget is nearly used up.",
        {"budget": field("budget_type", usual=BUDGETS)},
        counts("budget.warning"),
    ),
    counter(
        "errors",
        "Errors that were reported.",
        {"component": field("component"), "error_type": field("error_type")},
        counts("error.raised"),
    ),
    counter(
        "commands",
        "Commands that ended.",
        {"command": COMMAND, "status": STATUS},
        creates("command.started"),
        counts("command.completed"),
    ),
    histogram(
        "command_duration_seconds",
        "Duration of commands in seconds.",
        {"command": COMMAND, "status": STATUS},
        CALL,
        observes(duration, "command.completed"),
        exemplars=True,
    ),
    Instrument(
        "audit_records",
        "counter",
        "Events that belong into the audit log, by outcome; a start has none yet.",
        {
            "outcome": Label(
                _outcome_or_started, _outcome_or_started, ("started", *OUTCOMES), ("outcome",)
            )
        },
        (counts(AUDITED),),
        prefix="harken",
    ),
    Instrument(
        "audit_last_sequence",
        "gauge",
        "Number of the audit log's last line, when it was opened or wrote a checkpoint last.",
        {},
        (
            sets(number("resumed_from_seq"), "harken.audit_opened"),
            sets(number("seq"), "harken.audit_checkpoint"),
        ),
        merge="last",
        prefix="harken",
    ),
    _forwarding(
        "gauge",
        "lag_bytes",
        "Bytes of the audit log that are not in the stream.",
    ),
    _forwarding(
        "gauge",
        "lag_seconds",
        "Age of the oldest line that is not in the stream, in seconds.",
    ),
    _forwarding(
        "gauge",
        "stalled",
        "Whether forwarding stands still; 1 also when it has ended with an error.",
        _stalled,
    ),
    _forwarding(
        "counter",
        "records",
        "Lines of the audit log that the engine took.",
    ),
    _forwarding(
        "counter",
        "rejected",
        "Lines of the audit log that nobody would take.",
    ),
    _forwarding(
        "counter",
        "failures",
        "Failures of the engine or the log while forwarding.",
    ),
)
"""What the catalog's events feed, and a forwarder's."""


HANDLERS = "handlers"
"""The value of the label ``sink`` under which all of an application's handlers are added up."""

Readings: TypeAlias = Iterator[tuple[str, tuple[str, ...], float]]


def _of_bus(read: Callable[[Health], Mapping[str, float]]) -> Callable[[Health], Readings]:
    def readings(health: Health) -> Readings:
        for word, value in read(health).items():
            yield "", (word,), value

    return readings


def _of_subscribers(
    read: Callable[[SubscriberHealth], float | Mapping[str, int]],
) -> Callable[[Health], Readings]:
    def readings(health: Health) -> Readings:
        for name, one in health.items():
            sink = name if one.is_sink else HANDLERS
            value = read(one)
            if isinstance(value, Mapping):
                for word, part in value.items():
                    yield name, (sink, word), part
            else:
                yield name, (sink,), value

    return readings


def _of_sinks(
    read: Callable[[SubscriberHealth], float | None],
) -> Callable[[Health], Readings]:
    def readings(health: Health) -> Readings:
        for name, one in health.items():
            value = read(one) if one.is_sink else None
            if value is not None:
                yield name, (name,), value

    return readings


BUS_INSTRUMENTS: tuple[BusInstrument, ...] = (
    BusInstrument(
        "harken_events_published",
        "counter",
        "Events that were published while somebody listened.",
        ("type",),
        _of_bus(lambda health: health.published),
    ),
    BusInstrument(
        "harken_events_rejected",
        "counter",
        "Events that the bus refused: second ends of an operation, and what came after its close.",
        ("reason",),
        _of_bus(lambda health: {"ended": health.refused_terminals, "closed": health.late}),
    ),
    BusInstrument(
        "harken_clock_steps_back",
        "counter",
        "How often the wall clock was found set back by more than a second; seen once per scrape.",
        (),
        lambda health: (("", (), health.clock_steps_back),),
    ),
    BusInstrument(
        "harken_operations_open",
        "gauge",
        "Operations that were started and have not ended.",
        (),
        lambda health: (("", (), health.open_operations),),
    ),
    BusInstrument(
        "harken_events_delivered",
        "counter",
        "Events that a sink took.",
        ("sink",),
        _of_subscribers(lambda one: one.delivered),
    ),
    BusInstrument(
        "harken_events_dropped",
        "counter",
        "Events that a sink missed.",
        ("sink", "reason"),
        _of_subscribers(lambda one: {"queue_full": 0, "quarantined": 0, "failed": 0, **one.drops}),
    ),
    BusInstrument(
        "harken_sink_errors",
        "counter",
        "What a sink raised.",
        ("sink", "error_type"),
        _of_subscribers(lambda one: one.errors),
    ),
    BusInstrument(
        "harken_sink_queue_depth",
        "gauge",
        "Events that wait for a sink.",
        ("sink",),
        _of_sinks(lambda one: None if one.capacity is None else one.depth),
    ),
    BusInstrument(
        "harken_sink_queue_capacity",
        "gauge",
        "Events that may wait for a sink.",
        ("sink",),
        _of_sinks(lambda one: one.capacity),
    ),
    BusInstrument(
        "harken_sink_up",
        "gauge",
        "Whether a sink takes events; 0 while it is quarantined.",
        ("sink",),
        _of_sinks(lambda one: 0.0 if one.quarantined else 1.0),
        merge="min",
    ),
    BusInstrument(
        "harken_sink_last_success_timestamp_seconds",
        "gauge",
        "When a sink last took something, in seconds since 1970-01-01 UTC.",
        ("sink",),
        _of_sinks(lambda one: one.last_success),
        merge="max",
    ),
)
"""What the bus itself says."""


class KeepsAudit(Protocol):
    """
    A sink that keeps an audit log.
    """

    @property
    def written_bytes(self) -> int:
        """
        Bytes that this process wrote.
        """
        ...

    @property
    def reopened(self) -> int:
        """
        How often the file had been moved away or deleted, and was followed.
        """
        ...

    @property
    def recovered(self) -> int:
        """
        How often the file was not as its writers leave it.
        """
        ...


class MissesRecords(Protocol):
    """
    A sink that goes on when it cannot write.
    """

    @property
    def lost(self) -> int:
        """
        How many records are nowhere.
        """
        ...

    @property
    def spilled(self) -> int:
        """
        How many are kept elsewhere at the moment.
        """
        ...

    @property
    def unsynced(self) -> int:
        """
        How many the disk did not confirm.
        """
        ...


class KeepsSpans(Protocol):
    """
    A sink that makes spans.
    """

    @property
    def spans_open(self) -> int:
        """
        Operations whose span is still to come.
        """
        ...

    @property
    def spans(self) -> Mapping[str, int]:
        """
        How many spans there were so far, by what became of them.
        """
        ...


class KeepsLogEvents(Protocol):
    """
    A sink that makes OpenTelemetry's log events.
    """

    @property
    def log_events(self) -> Mapping[str, int]:
        """
        How many there were so far, by what became of them.
        """
        ...


class KeepsBack(Protocol):
    """
    A sink that does not write every line.
    """

    @property
    def suppressed_lines(self) -> int:
        """
        How many it did not write.
        """
        ...


def _keeps_audit(sink: object) -> TypeGuard[KeepsAudit]:
    return _has(sink, "written_bytes", "reopened", "recovered")


def _misses_records(sink: object) -> TypeGuard[MissesRecords]:
    return _has(sink, "lost", "spilled", "unsynced")


def _keeps_spans(sink: object) -> TypeGuard[KeepsSpans]:
    return _has(sink, "spans_open", "spans")


def _keeps_log_events(sink: object) -> TypeGuard[KeepsLogEvents]:
    return _has(sink, "log_events")


def _keeps_back(sink: object) -> TypeGuard[KeepsBack]:
    return _has(sink, "suppressed_lines")


def _has(sink: object, *names: str) -> bool:
    # Without asking for the values: what raises is left out by itself, and not all the others.
    return all(getattr_static(sink, name, None) is not None for name in names)


def _written_bytes(sink: object) -> Iterator[tuple[tuple[str, ...], float]]:
    if _keeps_audit(sink):
        yield (), sink.written_bytes


def _reopens(sink: object) -> Iterator[tuple[tuple[str, ...], float]]:
    if _keeps_audit(sink):
        yield ("moved",), sink.reopened
        yield ("repaired",), sink.recovered


def _lost(sink: object) -> Iterator[tuple[tuple[str, ...], float]]:
    if _misses_records(sink):
        yield (), sink.lost


def _spilled(sink: object) -> Iterator[tuple[tuple[str, ...], float]]:
    if _misses_records(sink):
        yield (), sink.spilled


def _unsynced(sink: object) -> Iterator[tuple[tuple[str, ...], float]]:
    if _misses_records(sink):
        yield (), sink.unsynced


def _spans_open(sink: object) -> Iterator[tuple[tuple[str, ...], float]]:
    if _keeps_spans(sink):
        yield (), sink.spans_open


def _spans(sink: object) -> Iterator[tuple[tuple[str, ...], float]]:
    if _keeps_spans(sink):
        for result, number_of_them in sink.spans.items():
            yield (result,), number_of_them


def _log_events(sink: object) -> Iterator[tuple[tuple[str, ...], float]]:
    if _keeps_log_events(sink):
        for result, number_of_them in sink.log_events.items():
            yield (result,), number_of_them


def _suppressed_lines(sink: object) -> Iterator[tuple[tuple[str, ...], float]]:
    if _keeps_back(sink):
        yield (), sink.suppressed_lines


SINK_INSTRUMENTS: tuple[SinkInstrument, ...] = (
    SinkInstrument(
        "harken_audit_written_bytes",
        "counter",
        "Bytes that were written to the audit log.",
        {},
        _written_bytes,
    ),
    SinkInstrument(
        "harken_audit_reopens",
        "counter",
        "How often the audit log was found moved away and followed, or found damaged and repaired.",
        {"reason": ("moved", "repaired")},
        _reopens,
    ),
    SinkInstrument(
        "harken_audit_lost", "counter", "Events whose audit record is nowhere.", {}, _lost
    ),
    SinkInstrument(
        "harken_audit_spilled",
        "gauge",
        "Events whose audit record is in a file beside the log, until that can be written again.",
        {},
        _spilled,
    ),
    SinkInstrument(
        "harken_audit_unsynced",
        "counter",
        "Events whose audit record is in the log, but was not confirmed by the disk.",
        {},
        _unsynced,
    ),
    SinkInstrument(
        "harken_log_lines_suppressed",
        "counter",
        "Lines of events that were not logged, because they said what others had said before.",
        {},
        _suppressed_lines,
    ),
    SinkInstrument(
        "harken_spans_open",
        "gauge",
        "Operations whose span is still to come.",
        {},
        _spans_open,
    ),
    SinkInstrument(
        "harken_spans",
        "counter",
        "Spans, by what became of them.",
        {"result": ("ended", "timeout", "abandoned", "no_start", "evicted", "lost")},
        _spans,
    ),
    SinkInstrument(
        "harken_log_events",
        "counter",
        "OpenTelemetry log events, by what became of them.",
        {"result": ("exported", "lost")},
        _log_events,
    ),
)
"""What sinks say about themselves."""
