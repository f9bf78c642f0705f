"""
Ambient context: who acts, in which run, under which trace; carried by a `ContextVar`.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import logging
import os
import re
from collections.abc import Callable, Mapping, MutableMapping
from contextvars import ContextVar, Token, copy_context
from random import getrandbits
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, ParamSpec, TypeVar, cast
from urllib.parse import quote, unquote

import msgspec

from harken.event import JSON

if TYPE_CHECKING:
    from harken.body import Encoder
    from harken.envelope import Envelope
    from harken.event import Event

P = ParamSpec("P")
R = TypeVar("R")

Carrier = tuple[str | None, str | None]
"""A ``traceparent`` and a ``tracestate``, each None when there is none."""

MAX_TRACE_TEXT = 512
"""Characters of a ``traceparent`` that are looked at, as in the W3C's reference code."""

MAX_TOOL_TRACE_ID = 128
"""Characters that ``TOOL_TRACE_ID`` may have."""

_log = logging.getLogger("harken")
_EMPTY: Mapping[str, JSON] = MappingProxyType({})
_TEXTS = (
    "session_id",
    "run_id",
    "parent_run_id",
    "actor",
    "on_behalf_of",
    "correlation_id",
    "request_id",
    "phase",
    "source",
)

# W3C Trace Context, section 3.2: a later version may append fields, version 00 may not.
_TRACEPARENT = re.compile(
    r"(?P<version>[0-9a-f]{2})-(?P<trace>[0-9a-f]{32})-(?P<span>[0-9a-f]{16})"
    r"-(?P<flags>[0-9a-f]{2})(?P<more>-.*)?"
)


class Scope(msgspec.Struct, frozen=True, eq=False):
    """
    One layer of ambient context. Frozen: a child task shares it with its parent.

    Attributes:
        redacted: How many secrets of each kind were taken out of a copy that was cleaned.

        trace_id: Empty when each event outside of an operation begins a trace of its own.

        span_id: The span outside of harken that this scope is part of.

        operation: The start of the operation that the code in this scope runs in.

        like: A scope with the same texts and attributes, in another operation or trace; what is
            made of them is kept there, for both.

        cleaned: Copies whose texts are redacted, and by what; the latest first.

        told: Of such a copy, what its texts are in a record; see `harken.record`.
    """

    session_id: str | None = None
    run_id: str | None = None
    parent_run_id: str | None = None
    actor: str | None = None
    on_behalf_of: str | None = None
    correlation_id: str | None = None
    request_id: str | None = None
    phase: str | None = None
    source: str | None = None
    trace_id: str = ""
    span_id: str | None = None
    trace_flags: int = 1
    tracestate: str | None = None
    attributes: Mapping[str, JSON] = _EMPTY
    operation: Envelope[Event] | None = None
    own_run: bool = False
    redacted: Mapping[str, int] = _EMPTY
    cleaned: tuple[tuple[Encoder, Scope], ...] = ()
    like: Scope | None = None
    told: object = None

    def replace(self, **changes: object) -> Scope:
        """
        Return a copy with *changes*.
        """
        return msgspec.structs.replace(self, cleaned=(), like=None, told=None, **changes)

    def moved(self, **changes: object) -> Scope:
        """
        Return a copy with *changes* of where it is; its texts and attributes stay what they are.
        """
        return msgspec.structs.replace(
            self, cleaned=(), like=self.like or self, told=None, **changes
        )

    def map_texts(
        self, clean: Callable[[Mapping[str, object], dict[str, int]], dict[str, JSON]]
    ) -> Scope:
        """
        Return a copy whose texts and attributes went through *clean*, which counts secrets.
        """
        counts: dict[str, int] = {}
        given = {name: value for name in _TEXTS if (value := getattr(self, name)) is not None}
        texts = {name: str(value) for name, value in clean(given, counts).items()}
        attributes = clean(self.attributes, counts) if self.attributes else self.attributes
        # A text of a class of its author's own may call itself equal to any other.
        ours = all(value.__class__ is str for value in given.values())
        if ours and texts == given and attributes == self.attributes:
            return self
        return self.replace(
            **texts, attributes=MappingProxyType(dict(attributes)), redacted=counts or _EMPTY
        )

    def traceparent(self) -> str | None:
        """
        Return the W3C header for whatever is called from here; None when there is no trace yet.
        """
        operation = self.operation
        if operation is not None:
            return f"00-{operation.trace_id}-{operation.span_id}-{operation.trace_flags:02x}"
        if not self.trace_id:
            return None
        span_id = self.span_id or f"{getrandbits(64) or 1:016x}"
        return f"00-{self.trace_id}-{span_id}-{self.trace_flags:02x}"


ambient: ContextVar[Scope | None] = ContextVar("harken.scope", default=None)
"""The scope of the running code; `current()` also knows what holds outside of any."""

_process: Scope | None = None

cause: ContextVar[Envelope[Event] | None] = ContextVar("harken.cause", default=None)
"""What is being handled right now: the cause of whatever its handler publishes."""
_source: Callable[[], Carrier | None] | None = None
_target: Callable[[Scope], Callable[[], None]] | None = None
_sampler: Callable[[str], bool] | None = None


def current() -> Scope:
    """
    Return the scope of the running code; outside of any, that of the process.
    """
    return ambient.get() or outermost()


def outermost() -> Scope:
    """
    Return the scope outside of every `scope()`: the registered source's trace, else the process's.
    """
    global _process
    if _process is None:
        _process = from_env()
    if _source is not None:
        carrier = _source()
        if carrier is not None:
            return _in_trace(_process, *carrier)
    return _process


def register_trace_source(source: Callable[[], Carrier | None] | None, /) -> None:
    """
    Ask *source* for the trace of code outside of every scope; None takes it away again.

    Args:
        source:
            Returns the ``traceparent`` and the ``tracestate`` of whatever traces the
            application, or None when nothing does. It is called for each event that is published
            outside of a scope, and when an outermost scope is entered.
    """
    global _source
    _source = source


Entered = tuple[Token["Scope | None"], "Scope | None"]
"""What `enter()` returns: how to undo it, and what was made current."""

# Scopes that were left while one that was entered later was still current, as generators do that
# take turns: from the id of each to itself and what was current before it.
_left: ContextVar[Mapping[int, tuple[Scope, Scope | None]]] = ContextVar(
    "harken.left", default=MappingProxyType({})
)


def register_trace_target(target: Callable[[Scope], Callable[[], None]] | None, /) -> None:
    """
    Tell *target* of each operation whose block is entered; None takes it away again.

    The other direction of `register_trace_source()`: by it, whatever else traces the application
    learns in which span the code inside of ``with bus.operation(...)`` runs. Operations that are
    started and ended by hand are not told, and none that nobody listens to.

    Args:
        target:
            Takes the scope inside of the operation, and returns what is called when the block is
            left; that may be in another thread or task, and not in the order of entering. Neither
            may raise.
    """
    global _target
    _target = target


def follow(inside: Scope) -> Callable[[], None] | None:
    """
    Tell the registered target of *inside*, and return what it wants to be called in the end.
    """
    return None if _target is None else _target(inside)


def register_sampler(sampler: Callable[[str], bool] | None, /) -> None:
    """
    Ask *sampler* whether a trace that begins here is sampled; None samples all.

    The answer is bit 0 of ``trace_flags``, and goes with the trace into every event, span,
    exemplar and subprocess. A trace that comes from outside brings its own.

    Args:
        sampler: Takes the trace id, 32 hex digits, and must give the same answer every time.
    """
    global _sampler
    _sampler = sampler


def root_flags(trace_id: str) -> int:
    """
    Return the trace flags of a trace that begins in this process.
    """
    return 1 if _sampler is None or _sampler(trace_id) else 0


def enter(inner: Scope | None) -> Entered:
    """
    Make *inner* current, and return what `leave()` needs.
    """
    return ambient.set(inner), inner


def leave(entered: Entered) -> None:
    """
    Undo `enter()`, in whatever order. Harmless in another context than the one it was made in.
    """
    token, inner = entered
    if inner is not None and ambient.get() is not inner:
        before = token.old_value
        outer = None if before is Token.MISSING else before
        _left.set({**_left.get(), id(inner): (inner, outer)})
        return
    _reset(ambient, token)
    if _left.get():
        _skip_left()


def _skip_left() -> None:
    here, left = ambient.get(), dict(_left.get())
    while here is not None and id(here) in left:
        _, here = left.pop(id(here))
    _left.set(left)
    ambient.set(here)


def leave_cause(token: Token[Envelope[Event] | None]) -> None:
    """
    Undo the setting of `cause`. Harmless in another context.
    """
    _reset(cause, token)


def _reset(variable: ContextVar[R], token: Token[R]) -> None:
    try:
        variable.reset(token)
    except ValueError:
        # An async generator that is closed by the event loop runs its end in another context;
        # the one it began in is gone, so there is nothing to restore.
        _log.debug("a scope was left in another context than it was entered in")


class scope:
    """
    Everything published inside this block is part of what is named here.

    Scopes nest: what is not named is taken from the enclosing scope. Works in ``with`` and
    ``async with``; tasks inherit it, threads only through `bind()`. Leaving it never raises.

    Args:
        actor: Who acts, as ``kind:id``; kinds are user, agent, service and system.

        correlation_id: The caller's own id for the assignment; by default the trace id.

        traceparent:
            The W3C header that came in. A malformed one counts as none, as the W3C asks.

        attributes: JSON scalars for every event.
    """

    def __init__(
        self,
        *,
        session_id: str | None = None,
        run_id: str | None = None,
        parent_run_id: str | None = None,
        actor: str | None = None,
        on_behalf_of: str | None = None,
        correlation_id: str | None = None,
        request_id: str | None = None,
        phase: str | None = None,
        source: str | None = None,
        traceparent: str | None = None,
        tracestate: str | None = None,
        **attributes: JSON,
    ) -> None:
        named = {
            "session_id": session_id,
            "run_id": run_id,
            "parent_run_id": parent_run_id,
            "actor": actor,
            "on_behalf_of": on_behalf_of,
            "correlation_id": correlation_id,
            "request_id": request_id,
            "phase": phase,
            "source": source,
        }
        self._named = {name: value for name, value in named.items() if value is not None}
        self._carrier = (traceparent, tracestate)
        self._attributes = attributes
        self._entered: list[Entered] = []

    def __enter__(self) -> Scope:
        inner = self._inside(current())
        self._entered.append(enter(inner))
        return inner

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        leave(self._entered.pop())

    async def __aenter__(self) -> Scope:
        return self.__enter__()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.__exit__(exc_type, exc, traceback)

    def _inside(self, outer: Scope) -> Scope:
        changes: dict[str, object] = dict(self._named)
        if "run_id" in changes and changes["run_id"] != outer.run_id:
            changes["own_run"] = False
            if outer.run_id is not None and "parent_run_id" not in changes:
                changes["parent_run_id"] = outer.run_id
        if self._attributes:
            merged = {**outer.attributes, **self._attributes}
            changes["attributes"] = MappingProxyType(merged)
        inner = outer.replace(**changes)
        if self._carrier[0] is not None:
            inner = _in_trace(inner, *self._carrier)
        if not inner.trace_id and inner.operation is None:
            trace_id = _new_trace_id()
            inner = inner.moved(trace_id=trace_id, trace_flags=root_flags(trace_id))
        return inner


def _in_trace(inside: Scope, traceparent: str | None, tracestate: str | None) -> Scope:
    match = _parse(traceparent)
    if match is None:
        return inside
    # What is like a scope in an operation would keep that for as long as it is there itself.
    change = inside.moved if inside.operation is None else inside.replace
    return change(
        trace_id=match["trace"],
        span_id=match["span"],
        trace_flags=int(match["flags"], 16),
        tracestate=tracestate if isinstance(tracestate, str) else None,
        operation=None,
    )


def _parse(traceparent: str | None) -> re.Match[str] | None:
    # Some frameworks hand on a header as bytes.
    if not isinstance(traceparent, str) or len(traceparent) > MAX_TRACE_TEXT:
        return None
    match = _TRACEPARENT.fullmatch(traceparent.strip())
    if match is None or match["version"] == "ff" or (match["version"] == "00" and match["more"]):
        return None
    if not int(match["trace"], 16) or not int(match["span"], 16):
        return None
    return match


def _new_trace_id() -> str:
    return f"{getrandbits(128) or 1:032x}"


def from_env(environ: Mapping[str, str] | None = None) -> Scope:
    """
    Return the scope that a parent process handed down by `child_env()`, or an empty one.

    Args:
        environ:
            By default the process's own; its ``TRACEPARENT``, ``TRACESTATE``, ``BAGGAGE`` and
            ``TOOL_TRACE_ID`` are read. Malformed values are ignored with a warning.
    """
    environ = os.environ if environ is None else environ
    inherited = _baggage(environ.get("BAGGAGE", ""))
    found = Scope(
        session_id=inherited.get("harken.session_id"),
        parent_run_id=inherited.get("harken.run_id"),
    )
    traceparent = environ.get("TRACEPARENT")
    if traceparent:
        if _parse(traceparent) is None:
            _log.warning("TRACEPARENT is malformed and was ignored")
        found = _in_trace(found, traceparent, environ.get("TRACESTATE"))
    tool_trace_id = environ.get("TOOL_TRACE_ID")
    if not tool_trace_id:
        return found
    if len(tool_trace_id) > MAX_TOOL_TRACE_ID or not tool_trace_id.isprintable():
        _log.warning(
            "TOOL_TRACE_ID was ignored: it must be at most %d printable characters",
            MAX_TOOL_TRACE_ID,
        )
        return found
    found = found.replace(correlation_id=tool_trace_id)
    if found.trace_id:
        return found
    trace_id = _derived_trace_id(tool_trace_id)
    return found.moved(trace_id=trace_id, trace_flags=root_flags(trace_id))


def _derived_trace_id(tool_trace_id: str) -> str:
    """
    Return the trace id that every process makes from the same ``TOOL_TRACE_ID``.
    """
    text = tool_trace_id.strip().lower()
    if re.fullmatch(r"[0-9a-f]{32}", text) and int(text, 16):
        return text
    digest = hashlib.blake2b(tool_trace_id.encode(), digest_size=16, person=b"harken.trace")
    return digest.hexdigest()


def child_env(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """
    Return a copy of the environment that carries the current scope into a subprocess.

    Args:
        environ: What to copy; by default the process's own environment.

    Returns:
        *environ* with ``TRACEPARENT``, ``TRACESTATE``, ``BAGGAGE`` and ``TOOL_TRACE_ID`` set to
        the current scope's; what it does not know is taken out, so that nothing stale is left.
    """
    env = dict(os.environ if environ is None else environ)
    here = current()
    carried = {
        "TRACEPARENT": here.traceparent(),
        "TRACESTATE": here.tracestate,
        "BAGGAGE": _to_baggage(here, env.get("BAGGAGE", "")),
        "TOOL_TRACE_ID": _handed_down_id(here),
    }
    for name, value in carried.items():
        if value:
            env[name] = value
        else:
            env.pop(name, None)
    return env


def inject(headers: MutableMapping[str, str], /) -> MutableMapping[str, str]:
    """
    Put the current scope into the headers of an HTTP request, and return them.

    Sets ``traceparent``, ``tracestate``, ``baggage`` and ``x-correlation-id``, each only when
    there is something to say.
    """
    here = current()
    carried = {
        "traceparent": here.traceparent(),
        "tracestate": here.tracestate,
        "baggage": _to_baggage(here, headers.get("baggage", "")),
        "x-correlation-id": _handed_down_id(here),
    }
    for name, value in carried.items():
        if value:
            headers[name] = value
    return headers


def _handed_down_id(here: Scope) -> str | None:
    text = here.correlation_id
    return text if text and len(text) <= MAX_TOOL_TRACE_ID and text.isprintable() else None


def _to_baggage(here: Scope, existing: str) -> str:
    ours = {"harken.session_id": here.session_id, "harken.run_id": here.run_id}
    members = [
        member
        for member in map(str.strip, existing.split(","))
        if member and member.partition("=")[0].strip() not in ours
    ]
    members += [f"{name}={quote(value, safe='')}" for name, value in ours.items() if value]
    return ",".join(members)


def _baggage(text: str) -> dict[str, str]:
    pairs = (member.partition(";")[0].partition("=") for member in text[:8192].split(","))
    return {name.strip(): unquote(value.strip()) for name, _, value in pairs if value.strip()}


def current_context() -> dict[str, str]:
    """
    Return the ids of the running code for a log line; those that are absent are left out.

    The names are ``trace_id``, ``span_id``, ``correlation_id``, ``session_id``, ``run_id``,
    ``request_id``, ``phase`` and ``actor``. The values are not redacted.
    """
    here = ambient.get() or outermost()
    operation = here.operation
    trace_id = here.trace_id if operation is None else operation.trace_id
    ids = {
        "trace_id": trace_id,
        "span_id": here.span_id if operation is None else operation.span_id,
        "correlation_id": here.correlation_id or trace_id,
        "session_id": here.session_id,
        "run_id": here.run_id,
        "request_id": here.request_id,
        "phase": here.phase,
        "actor": here.actor,
    }
    return {name: value for name, value in ids.items() if value}


def bind(function: Callable[P, R], /) -> Callable[P, R]:
    """
    Carry the current scope, and every other context variable, into a thread or an executor.

    Each call of the result runs in a copy of the context of *this* call, so one bound function
    may run in many threads at once. A coroutine function stays one.
    """
    context = copy_context()

    if inspect.iscoroutinefunction(function):
        bound_scope = ambient.get()

        @functools.wraps(function)
        async def bound_coroutine(*args: P.args, **kwargs: P.kwargs) -> object:
            entered = enter(bound_scope)
            try:
                return await function(*args, **kwargs)
            finally:
                leave(entered)

        return cast("Callable[P, R]", bound_coroutine)

    @functools.wraps(function)
    def bound(*args: P.args, **kwargs: P.kwargs) -> R:
        return context.copy().run(function, *args, **kwargs)

    return bound
