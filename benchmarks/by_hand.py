"""
The least Python that makes harken's outputs for the events of the benchmarks, and for no others.

Each function is written out for its events: what a bus has to find out, decide or be asked for is
known here, and is left out. So are worker threads and their wake-ups, bounds, counts of drops,
health, rotation, other processes' records, secrets that are found, any payload but this one, and
every option; and logs and spans wait until there are 256, however long that takes. What is left
has to be done for each event whoever does it: an envelope, one encoding, one search for secrets,
the digests, the lines and the system calls that `harken.record` promises, a start that waits for
its end, and the SDK's object for a span. `pipeline.py` sees to it that the outputs are the same.
"""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import os
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence
from json.encoder import encode_basestring_ascii as ascii_json
from pathlib import Path
from typing import Any

import msgspec
from naive import ARGUMENTS, RESULT, RESULT_SIZE, SCOPE, TOOL, CountingExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, TraceFlags

from harken import Bus, Envelope, Event
from harken.catalog import ToolCompleted, ToolStarted
from harken.record import GENESIS, rfc3339
from harken.redaction import Redactor
from harken.scope import ambient, cause

BATCH = 256

BUCKETS = [0.01 * 2**power for power in range(14)]

_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_SCOPE = InstrumentationScope("harken")

_encode = msgspec.json.Encoder().encode
_search = Redactor().suspicious
_time_ns, _monotonic_ns = time.time_ns, time.monotonic_ns
_sha256 = hashlib.sha256


def _envelope_like(event: Event) -> Envelope[Event]:
    """
    Return an envelope of *event* by the bus itself, to take from it what all of them have.
    """
    bus = Bus()
    bus.subscribe(lambda envelope: None)
    envelope = bus.publish(event)
    assert envelope is not None
    return envelope


def handing_over(
    event: Event, handlers: Sequence[Callable[[Envelope[Event]], object]]
) -> Callable[[Event], Envelope[Event]]:
    """
    Return what hands events like *event* to *handlers*, none of which may harm another.
    """
    like = _envelope_like(event)
    routes = {type(event): (like.type, like.audit, like.outcome, tuple(handlers))}
    seq, scope, mint = itertools.count(1).__next__, like.scope, like._mint
    here, handled, handle, handled_over = ambient.get, cause.get, cause.set, cause.reset
    failures: list[Exception] = []

    def publish(event: Event) -> Envelope[Event]:
        kind, audit, outcome, handlers = routes[event.__class__]
        before = handled()
        envelope = Envelope(
            event,
            kind,
            _time_ns(),
            0,
            seq(),
            audit,
            outcome,
            here() or scope,
            mint,
            None,
            () if before is None else (before.id,),
        )
        token = handle(envelope)
        try:
            for handler in handlers:
                try:
                    handler(envelope)
                except Exception as failure:
                    failures.append(failure)
        finally:
            handled_over(token)
        return envelope

    return publish


class Queueing:
    """
    Puts events, with their JSON as it was, into one queue that a thread would empty.

    Args:
        likes: Events like those that are to be published.
    """

    def __init__(self, *likes: Event) -> None:
        self.queue: deque[Envelope[Event]] = deque()
        self._likes = {type(event): _envelope_like(event) for event in likes}
        self._seq = itertools.count(1).__next__
        self._open: dict[tuple[type, str], Envelope[Event]] = {}

    def publish(
        self, event: Event, mono_ns: int = 0, started: Envelope[Event] | None = None
    ) -> Envelope[Event]:
        """
        Queue an event.
        """
        like = self._likes[event.__class__]
        before = cause.get()
        envelope = Envelope(
            event,
            like.type,
            _time_ns(),
            mono_ns,
            self._seq(),
            like.audit,
            like.outcome,
            ambient.get() or like.scope,
            like._mint,
            started,
            () if before is None else (before.id,),
            None,
            None,
            _encode(event),
        )
        is_idle = not self.queue
        self.queue.append(envelope)
        if is_idle:
            self.wake()
        return envelope

    def wake(self) -> None:
        """
        Here somebody would be woken.
        """

    def pair(self, call_id: str) -> None:
        """
        Queue a start and its end, which find one another.
        """
        start = ToolStarted(tool_call_id=call_id, tool_name=TOOL, arguments=ARGUMENTS)
        self._open[ToolStarted, start.tool_call_id] = self.publish(start, _monotonic_ns())
        end = ToolCompleted(
            tool_call_id=call_id, tool_name=TOOL, result=RESULT, result_size=RESULT_SIZE
        )
        self.publish(end, _monotonic_ns(), self._open.pop((ToolStarted, end.tool_call_id)))

    def flush(self) -> None:
        """
        Forget what is queued.
        """
        self.queue.clear()


class Appender:
    """
    Appends chained lines to a file, under its lock, and after a look whether it is as it was.
    """

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        self._folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        self._size = 0
        self._changed_ns = os.fstat(self._folder).st_ctime_ns
        self.lines = 0
        self.head = GENESIS
        self._waiting: list[bytes] = []

    def seal(self, content: str) -> bytes:
        """
        Return the line of *content*, which says the hash of the line before.
        """
        encoded = content.encode()
        self.head = _sha256(encoded).hexdigest()
        return encoded + f',"hash":"{self.head}"}}\n'.encode()

    def write(self, line: bytes) -> None:
        """
        Write what is sealed.
        """
        fd = self._fd
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            if (
                os.fstat(self._folder).st_ctime_ns != self._changed_ns
                or os.lseek(fd, 0, os.SEEK_END) != self._size
            ):
                raise RuntimeError("somebody else was there")
            self._size += os.write(fd, line)
        finally:
            fcntl.flock(fd, fcntl.LOCK_UN)

    def write_later(self, line: bytes) -> None:
        """
        Write it with others.
        """
        self._waiting.append(line)
        if len(self._waiting) == BATCH:
            self.flush()

    def flush(self) -> None:
        """
        Write what waits.
        """
        if self._waiting:
            self.write(b"".join(self._waiting))
            self._waiting.clear()

    def begin(self) -> None:
        """
        Take the folder and the file for known as they are.
        """
        self._changed_ns = os.fstat(self._folder).st_ctime_ns
        self._size = os.lseek(self._fd, 0, os.SEEK_END)

    def close(self) -> None:
        """
        Close the file.
        """
        self.flush()
        os.close(self._fd)
        os.close(self._folder)


def auditing(path: Path, event: Any, *, redaction: bool) -> Callable[[], object]:
    """
    Return what audits *event*, a ``benchmark.file_read`` without content, with each call.
    """
    like = _envelope_like(event)
    log = Appender(path)
    ids = like._mint.ids
    seq = itertools.count(1).__next__
    scope = like.scope

    def publish() -> Envelope[Event]:
        before = cause.get()
        raw = _encode(event)
        if redaction and _search(raw):
            raise RuntimeError("a secret")
        envelope = Envelope(
            event,
            like.type,
            _time_ns(),
            0,
            seq(),
            like.audit,
            like.outcome,
            ambient.get() or scope,
            like._mint,
            None,
            () if before is None else (before.id,),
            None,
            None,
            raw,
        )
        log.lines += 1
        time_ns, number = envelope.time_ns, envelope.seq
        line = log.seal(
            f'{{"timestamp":"{rfc3339(time_ns)}","seq":{log.lines},"v":1,'
            f'"id":"{ids.event_id(time_ns, number)}","event_type":"benchmark.file_read",'
            f'"actor":"unknown","action":"read","resource":{ascii_json("file:" + event.path)},'
            f'"outcome":"unknown","metadata":{raw.decode()},"correlation_id":"'
            f'{(trace_id := ids.trace_id(number))}","trace_id":"{trace_id}",'
            f'"span_id":"{ids.span_id(number)}","schema_version":1,"writer":"by-hand",'
            f'"n":{log.lines},"prev":"{log.head}"'
        )
        log.write(line)
        return envelope

    log.begin()
    return publish


class ByHand:
    """
    All outputs of a tool call, in the scope of the benchmark.

    Args:
        delayed: Whether audit lines are written in batches, as ``durability="async"`` does.
    """

    def __init__(self, folder: Path, *, delayed: bool = False) -> None:
        folder.mkdir()
        self.folder = folder
        self.exporter = CountingExporter()
        start = ToolStarted(tool_call_id="", tool_name=TOOL, arguments=ARGUMENTS)
        end = ToolCompleted(tool_call_id="", tool_name=TOOL, result=RESULT, result_size=1)
        self._start_like, self._end_like = _envelope_like(start), _envelope_like(end)
        self._ids = self._start_like._mint.ids
        self._seq = itertools.count(1).__next__
        self._open: dict[tuple[type, str], tuple[Envelope[Event], str, str, str, str, int]] = {}
        self._log_fd = os.open(folder / "events.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._log_lines: list[bytes] = []
        self._spans: list[ReadableSpan] = []
        self._resource = Resource.create()
        self._calls: dict[tuple[str, str], int] = {(TOOL, "success"): 0}
        self._seconds = [0] * (len(BUCKETS) + 1)
        self._in_progress = 0
        self._trace_id = self._ids.trace_id(1)
        self._trace = int(self._trace_id, 16)
        # What the texts of the scope are in each line.
        run, session, actor, correlation = map(
            ascii_json,
            (SCOPE["run_id"], SCOPE["session_id"], SCOPE["actor"], SCOPE["correlation_id"]),
        )
        self._actor = f'"actor":{actor},"action":"call","resource":'
        self._traced = f'"correlation_id":{correlation},"trace_id":"{self._trace_id}","span_id":"'
        self._whose = f'","session_id":{session},"run_id":{run},'
        self._logged = (
            f'","trace_flags":"01","correlation_id":{correlation},"run_id":{run},'
            f'"session_id":{session},"actor":{actor},"event.id":"'
        )
        self._around = {
            "harken.operation": "tool.started",
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.agent.name": "billing",
            "gen_ai.conversation.id": SCOPE["session_id"],
            "harken.run.id": SCOPE["run_id"],
            "harken.session.id": SCOPE["session_id"],
            "harken.actor": SCOPE["actor"],
            "infra_agent.session.id": SCOPE["session_id"],
            "infra_agent.run.id": SCOPE["run_id"],
            "infra_agent.slug": "billing",
            "harken.correlation.id": SCOPE["correlation_id"],
            "infra_agent.correlation.id": SCOPE["correlation_id"],
        }
        self.audit = Appender(folder / "audit.jsonl")
        self._append = self.audit.write_later if delayed else self.audit.write
        self.audit.begin()

    def started(self, call_id: str) -> object:
        """
        Make a start and put it out.
        """
        event = ToolStarted(tool_call_id=call_id, tool_name=TOOL, arguments=ARGUMENTS)
        like, audit = self._start_like, self.audit
        before = cause.get()
        raw = _encode(event)
        if _search(raw):
            raise RuntimeError("a secret")
        number = self._seq()
        envelope = Envelope(
            event,
            like.type,
            _time_ns(),
            _monotonic_ns(),
            number,
            like.audit,
            like.outcome,
            ambient.get() or like.scope,
            like._mint,
            None,
            () if before is None else (before.id,),
            None,
            None,
            raw,
        )
        span_id = self._ids.span_id(number)
        event_id = self._ids.event_id(envelope.time_ns, number)
        front, rest = raw.decode().split('"arguments":')
        arguments, back = rest.split(',"arguments_digest":"","arguments_size":0')
        digest, size = f"sha256:{_sha256(arguments.encode()).hexdigest()}", len(arguments)
        back = f'"arguments_digest":"{digest}","arguments_size":{size}{back}'
        self._open[ToolStarted, event.tool_call_id] = (
            envelope,
            event_id,
            span_id,
            event.tool_name,
            digest,
            size,
        )
        stamp = rfc3339(envelope.time_ns)
        resource = f"tool:{event.tool_name}"
        audit.lines += 1
        self._append(
            audit.seal(
                f'{{"timestamp":"{stamp}","seq":{audit.lines},"v":1,"id":"{event_id}",'
                f'"event_type":"tool.started",{self._actor}{ascii_json(resource)},'
                f'"outcome":null,"metadata":{front}"arguments":{arguments},{back},{self._traced}'
                f'{span_id}{self._whose}"schema_version":1,"writer":"by-hand","n":{audit.lines},'
                f'"prev":"{audit.head}"'
            )
        )
        self._in_progress += 1
        self._log(
            f'{{"timestamp":"{stamp}","level":"info","severity_number":9,"message":'
            f'{ascii_json(f"tool started: {resource}")},"event_name":"tool.started",'
            f'"otel.event.name":"tool.started","logger":"harken.events","trace_id":"'
            f'{self._trace_id}","span_id":"{span_id}{self._logged}{event_id}","data":{front}'
            f'{back},"schema":"harken.log/1"}}\n'.encode()
        )
        return envelope

    def ended(self, call_id: str, start: Any) -> object:
        """
        Make an end and put it out.
        """
        event = ToolCompleted(
            tool_call_id=call_id, tool_name=TOOL, result=RESULT, result_size=RESULT_SIZE
        )
        like, audit = self._end_like, self.audit
        before = cause.get()
        raw = _encode(event)
        if _search(raw):
            raise RuntimeError("a secret")
        number = self._seq()
        begun, begun_id, span_id, tool, arguments_digest, size = self._open.pop(
            (ToolStarted, event.tool_call_id)
        )
        envelope = Envelope(
            event,
            like.type,
            _time_ns(),
            _monotonic_ns(),
            number,
            like.audit,
            like.outcome,
            begun.scope,
            like._mint,
            begun,
            () if before is None else (before.id,),
            None,
            None,
            raw,
        )
        event_id = self._ids.event_id(envelope.time_ns, number)
        front, rest = raw.decode().split('"result":')
        result, back = rest.split(f',"result_size":{event.result_size},"result_digest":""')
        digest = f"sha256:{_sha256(result[1:-1].encode()).hexdigest()}"
        body = f'{front}"result_size":{event.result_size},"result_digest":"{digest}"{back}'
        stamp = rfc3339(envelope.time_ns)
        resource = f"tool:{event.tool_name}"
        audit.lines += 1
        self._append(
            audit.seal(
                f'{{"timestamp":"{stamp}","seq":{audit.lines},"v":1,"id":"{event_id}",'
                f'"event_type":"tool.completed",{self._actor}{ascii_json(resource)},'
                f'"outcome":"success","metadata":{body},{self._traced}{span_id}{self._whose}'
                f'"causation_id":"{begun_id}","started_event_id":"{begun_id}",'
                f'"schema_version":1,"writer":"by-hand","n":{audit.lines},"prev":"{audit.head}"'
            )
        )
        length_ns = envelope.mono_ns - begun.mono_ns
        self._in_progress -= 1
        self._calls[tool, "success"] += 1
        self._seconds[bisect_left(BUCKETS, length_ns / 1e9)] += 1
        self._log(
            f'{{"timestamp":"{stamp}","level":"info","severity_number":9,"message":'
            f'{ascii_json(f"tool completed: {resource}")},"event_name":"tool.completed",'
            f'"otel.event.name":"tool.completed","logger":"harken.events","outcome":"success",'
            f'"trace_id":"{self._trace_id}","span_id":"{span_id}{self._logged}{event_id}",'
            f'"data":{body},"schema":"harken.log/1"}}\n'.encode()
        )
        attributes = self._around.copy()
        attributes |= {
            "harken.event.id": event_id,
            "harken.outcome": "success",
            "harken.started_event.id": begun_id,
            "gen_ai.tool.call.id": event.tool_call_id,
            "gen_ai.tool.name": tool,
            "gen_ai.tool.type": "function",
            "harken.tool.arguments_digest": arguments_digest,
            "harken.tool.arguments_size": size,
            "harken.tool.effect": "unknown",
            "harken.tool.attempt": 1,
            "harken.tool.result_size": event.result_size,
            "harken.tool.result_digest": digest,
        }
        self._spans.append(
            ReadableSpan(
                f"execute_tool {tool}",
                SpanContext(self._trace, int(span_id, 16), False, _SAMPLED),
                None,
                self._resource,
                attributes,
                start_time=begun.time_ns,
                end_time=begun.time_ns + length_ns,
                instrumentation_scope=_SCOPE,
            )
        )
        if len(self._spans) == BATCH:
            self._export()
        return envelope

    def _log(self, line: bytes) -> None:
        self._log_lines.append(line)
        if len(self._log_lines) == BATCH:
            self._write_log()

    def _write_log(self) -> None:
        os.write(self._log_fd, b"".join(self._log_lines))
        self._log_lines.clear()

    def _export(self) -> None:
        self.exporter.export(self._spans)
        self._spans.clear()

    def flush(self) -> None:
        """
        Put out what waits.
        """
        self.audit.flush()
        self._write_log()
        self._export()

    def spans(self) -> int:
        """
        Return how many spans were exported.
        """
        return self.exporter.count

    def close(self) -> None:
        """
        Close the files.
        """
        self.flush()
        self.audit.close()
        os.close(self._log_fd)
