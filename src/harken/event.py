"""
Event types: what their class keywords say, and the registry that knows them by name.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import re
import string
import threading
from collections.abc import Callable, Mapping
from enum import Enum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, dataclass_transform

import msgspec

from harken.errors import EventDataError, EventError, EventNameClashError, UnknownEventError

JSON: TypeAlias = Any
"""A JSON value: None, bool, int, float, str, or lists and string-keyed dicts of them."""

ContentKind: TypeAlias = Literal["arguments", "result", "text", "thinking", "messages"]
"""What a field may hold that is long or private, and is kept only where that was asked for."""

CONTENT_KINDS: frozenset[ContentKind] = frozenset(
    ("arguments", "result", "text", "thinking", "messages")
)

# Envelope members that may stand in for a field in a key or a resource template.
SCOPE_NAMES = frozenset(
    ("session_id", "run_id", "parent_run_id", "request_id", "correlation_id", "actor", "phase")
)

_NAME = re.compile(r"[a-z][a-z0-9_]*(?:\.[a-z][a-z0-9_]*)+")
_RESERVED = {"audit": "control records of the audit log", "harken": "harken's own events"}


class Outcome(str, Enum):
    """
    How an operation ended, or what a point event amounted to.
    """

    success = "success"
    failure = "failure"
    denied = "denied"
    timeout = "timeout"
    cancelled = "cancelled"
    deferred = "deferred"
    orphaned = "orphaned"
    unknown = "unknown"

    __str__ = str.__str__

    @classmethod
    def of(cls, word: str) -> Outcome:
        """
        Return the outcome called *word*; a word that is not one of ours is ``unknown``.
        """
        return _OUTCOMES.get(word, cls.unknown)


_OUTCOMES: dict[str, Outcome] = {outcome.value: outcome for outcome in Outcome}


def plain_text(value: object) -> str:
    """
    Return a word or a small number as text, a boolean as ``true`` or ``false``, and anything else
    as an empty text. Never raises, whatever `__str__` of a subclass does.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, str):
        return str.__str__(value)
    # Python refuses to print integers of more than 4,300 digits.
    if isinstance(value, int) and value.bit_length() < 128:
        return int.__repr__(value)
    return ""


class OutcomeFrom(msgspec.Struct, frozen=True):
    """
    An outcome that is read from a field; see `outcome_from()`.
    """

    field: str
    mapping: dict[str, str]

    def __call__(self, event: Event) -> Outcome:
        """
        Return the outcome of *event*; a word that is neither mapped nor an outcome is unknown.
        """
        word = getattr(event, self.field)
        if word.__class__ is not str:
            word = plain_text(word)
        return Outcome.of(self.mapping.get(word, word))


def outcome_from(field: str, /, **mapping: str) -> OutcomeFrom:
    """
    Declare that a type's outcome is read from one of its fields.

    Args:
        field: The field's name; its value is taken as text, booleans as ``true`` and ``false``.

        mapping:
            From the field's value to an outcome. A value that is not mapped is taken as an
            outcome itself, and is ``unknown`` when it is none.
    """
    return OutcomeFrom(field, mapping)


def content(kind: ContentKind) -> msgspec.Meta:
    """
    Mark a field as content of *kind*: kept only where its capture was asked for.

    Sibling fields ``<field>_digest`` and ``<field>_size`` (or, when there are none, ``digest``
    and ``size``) are filled from the redacted content when their author left them empty.
    """
    if kind not in CONTENT_KINDS:
        known = ", ".join(sorted(CONTENT_KINDS))
        raise EventError(f"content kind {kind!r} is unknown; use one of {known}")
    return msgspec.Meta(extra={"content": kind}, extra_json_schema={"x-content": kind})


def unit(name: str) -> msgspec.Meta:
    """
    Say in which unit a number is; shown in the JSON Schema as ``x-unit``.
    """
    return msgspec.Meta(extra={"unit": name}, extra_json_schema={"x-unit": name})


class EventType(msgspec.Struct, frozen=True):
    """
    What the class keywords of an event type say.

    Attributes:
        name: The dotted name under which the type is recorded.

        key:
            The fields that pair a start with its terminal. A name that is no field of the event
            is one of the envelope (``run_id``, ``session_id``).
    """

    cls: type[Event]
    name: str
    audit: bool
    action: str
    resource: str
    key: tuple[str, ...]
    ends: type[Event] | None
    outcome: Outcome | OutcomeFrom | None
    schema_version: int
    transient: bool
    fields: tuple[str, ...]

    @property
    def content(self) -> Mapping[str, ContentKind]:
        """
        The content fields and their kind.
        """
        return _content_fields(self.cls)

    @property
    def terminals(self) -> tuple[type[Event], ...]:
        """
        The types that end this one, in order of declaration.
        """
        return tuple(_terminals.get(self.cls, ()))

    @property
    def is_start(self) -> bool:
        """
        Whether an event of this type opens an operation.
        """
        return bool(_terminals.get(self.cls))

    @property
    def is_terminal(self) -> bool:
        """
        Whether an event of this type ends an operation.
        """
        return self.ends is not None


_lock = threading.RLock()
_by_name: dict[str, type[Event]] = {}
_by_class: dict[type[Event], EventType] = {}
_terminals: dict[type[Event], list[type[Event]]] = {}
_listeners: list[Callable[[], None]] = []


class EventMeta(msgspec.StructMeta):
    """
    The metaclass that takes harken's class keywords off before msgspec sees the class.
    """

    def __new__(
        mcls,
        class_name: str,
        bases: tuple[type, ...],
        namespace: dict[str, Any],
        *,
        name: str | None = None,
        audit: bool | None = None,
        action: str | None = None,
        resource: str | None = None,
        key: str | tuple[str, ...] | None = None,
        ends: type[Event] | None = None,
        outcome: str | OutcomeFrom | None = None,
        schema_version: int = 1,
        transient: bool = False,
        **options: Any,
    ) -> EventMeta:
        """
        Make the class, and put what the keywords say into the registry.
        """
        options = {"kw_only": True, **options}
        cls = super().__new__(mcls, class_name, bases, namespace, **options)
        inherited = _inherited(cls)
        if name is None:
            _declared[cls] = {
                "audit": inherited.get("audit") if audit is None else audit,
                "action": inherited.get("action") if action is None else action,
                "resource": inherited.get("resource") if resource is None else resource,
                "outcome": inherited.get("outcome") if outcome is None else outcome,
            }
            return cls
        if not cls.__module__.startswith("harken."):
            # First come, first served does not hold for the names of the catalog.
            importlib.import_module("harken.catalog")
        _register(
            _event_type(
                cls,
                name,
                audit=inherited.get("audit", False) if audit is None else audit,
                action=inherited.get("action") if action is None else action,
                resource=inherited.get("resource") if resource is None else resource,
                key=(key,) if isinstance(key, str) else key or (),
                ends=ends,
                outcome=inherited.get("outcome") if outcome is None else outcome,
                schema_version=schema_version,
                transient=transient,
            )
        )
        return cls


# What base classes without a name declare, for their subclasses to inherit.
_declared: dict[type, dict[str, Any]] = {}


def _inherited(cls: type) -> dict[str, Any]:
    for base in cls.__mro__[1:]:
        if base in _by_class:
            info = _by_class[base]
            return {
                "audit": info.audit,
                "action": info.action,
                "resource": info.resource,
                "outcome": info.outcome,
            }
        if base in _declared:
            return {key: value for key, value in _declared[base].items() if value is not None}
    return {}


def _event_type(
    cls: Any,
    name: str,
    *,
    audit: bool,
    action: str | None,
    resource: str | None,
    key: tuple[str, ...],
    ends: type[Event] | None,
    outcome: str | OutcomeFrom | None,
    schema_version: int,
    transient: bool,
) -> EventType:
    if not _NAME.fullmatch(name):
        raise EventError(
            f"{_path(cls)}: {name!r} is no event name; use lower-case words joined by dots, "
            "such as 'invoice.paid'"
        )
    prefix = name.partition(".")[0]
    if prefix in _RESERVED and not cls.__module__.startswith("harken.catalog."):
        raise EventError(
            f"{_path(cls)}: names under {prefix!r} are kept for {_RESERVED[prefix]}; "
            "choose another first word"
        )
    fields: tuple[str, ...] = cls.__struct_fields__
    known = {*fields, *SCOPE_NAMES}
    resource = "unknown" if resource is None else resource
    used = {field for _, field, _, _ in string.Formatter().parse(resource) if field}
    for field in (*key, *sorted(used)):
        if field not in known:
            raise EventError(
                f"{_path(cls)}: {field!r} is neither a field nor an envelope member; "
                f"fields are {', '.join(fields) or 'none'}"
            )
    if ends is not None and ends not in _by_class:
        raise EventError(f"{_path(cls)}: ends= must be an event type with a name, not {ends!r}")
    return EventType(
        cls=cls,
        name=name,
        audit=audit,
        action=action or name.rpartition(".")[2],
        resource=resource,
        key=key or (_by_class[ends].key if ends else ()),
        ends=ends,
        outcome=_outcome_rule(cls, outcome, fields),
        schema_version=schema_version,
        transient=transient,
        fields=fields,
    )


def _outcome_rule(
    cls: type, declared: str | OutcomeFrom | None, fields: tuple[str, ...]
) -> Outcome | OutcomeFrom | None:
    if isinstance(declared, OutcomeFrom):
        if declared.field not in fields:
            raise EventError(f"{_path(cls)}: outcome_from({declared.field!r}) names no field")
        return declared
    if "outcome" in fields:
        return OutcomeFrom("outcome", {})
    if declared is None:
        return None
    if declared not in _OUTCOMES:
        known = ", ".join(_OUTCOMES)
        raise EventError(f"{_path(cls)}: {declared!r} is no outcome; use one of {known}")
    return _OUTCOMES[declared]


@functools.cache
def _content_fields(cls: type[Event]) -> Mapping[str, ContentKind]:
    # Only on demand: resolving the annotations of a hundred types costs 20 ms.
    marked: dict[str, ContentKind] = {}
    for field in msgspec.structs.fields(cls):
        for meta in getattr(field.type, "__metadata__", ()):
            if isinstance(meta, msgspec.Meta) and meta.extra and "content" in meta.extra:
                marked[field.name] = meta.extra["content"]
    return MappingProxyType(marked)


def _path(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _register(info: EventType) -> None:
    with _lock:
        other = _by_name.get(info.name)
        # A reloaded module or a re-run notebook cell declares the same class again.
        if other is not None and _path(other) != _path(info.cls):
            raise EventNameClashError(
                f"{_path(info.cls)} and {_path(other)} both claim the name {info.name!r}; "
                "rename one of them"
            )
        _by_name[info.name] = info.cls
        _by_class[info.cls] = info
        if info.ends is not None:
            ended_by = _terminals.setdefault(info.ends, [])
            ended_by[:] = [cls for cls in ended_by if _path(cls) != _path(info.cls)]
            ended_by.append(info.cls)
            for changed in tuple(_listeners):
                changed()


def on_terminal_declared(changed: Callable[[], None]) -> None:
    """
    Call *changed* whenever a type becomes an operation's end.
    """
    with _lock:
        _listeners.append(changed)


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(msgspec.field,))
class Event(msgspec.Struct, frozen=True, kw_only=True, metaclass=EventMeta):
    """
    What happened, in the past tense: a frozen value that holds only its author's fields.

    Subclass it with a dotted ``name``. What the keywords say lives in the registry
    (`describe()`), so a field may be called ``name`` or ``action``. A subclass without a name is
    a base class: it can be subscribed to, not published.

    Keyword Args:
        name: The dotted name in every record, such as ``invoice.paid``; never changes.

        audit: Whether the audit log records it.

        action: The verb of the audit record; by default the last word of the name.

        resource:
            What the action was done to: a template over the event's fields, such as
            ``"invoice:{invoice_id}"``.

        key: The field or fields that pair a start with its terminal.

        ends: The type of the start that this type ends.

        outcome: The outcome of every event of this type, or `outcome_from()` a field.

        schema_version: Raised when fields are added; fields are never removed.

        transient: Whether it reaches a sink only when the sink was attached for this very type.
    """

    if TYPE_CHECKING:

        def __init_subclass__(
            cls,
            *,
            name: str | None = None,
            audit: bool | None = None,
            action: str | None = None,
            resource: str | None = None,
            key: str | tuple[str, ...] | None = None,
            ends: type[Event] | None = None,
            outcome: str | OutcomeFrom | None = None,
            schema_version: int = 1,
            transient: bool = False,
        ) -> None: ...


def describe(event: Event | type[Event], /) -> EventType:
    """
    Return what the class keywords of *event*'s type say.

    Raises:
        UnknownEventError: The type is a base class, or no event type at all.
    """
    cls = event if isinstance(event, type) else type(event)
    try:
        return _by_class[cls]
    except KeyError:
        raise UnknownEventError(
            f'{_path(cls)} has no event name; declare it as class {cls.__name__}(Event, name="...")'
        ) from None


def event_name(event: Event | type[Event], /) -> str:
    """
    Return the dotted name of *event*'s type.

    Raises:
        UnknownEventError: The type is a base class, or no event type at all.
    """
    return describe(event).name


def event_types() -> Mapping[str, type[Event]]:
    """
    Return every registered event type by dotted name, as of now.

    The types of the catalog are among them once ``harken.catalog`` was imported.
    """
    with _lock:
        return dict(_by_name)


def find(name: str, /) -> type[Event]:
    """
    Return the event type called *name*; the catalog's types are found without an import.

    Raises:
        UnknownEventError: No such type; the message names near matches.
    """
    if name not in _by_name:
        importlib.import_module("harken.catalog")
    try:
        return _by_name[name]
    except KeyError:
        near = difflib.get_close_matches(name, _by_name, n=3)
        hint = "see `harken catalog`, or import the module that declares it"
        if near:
            hint = f"did you mean {' or '.join(near)}?"
        raise UnknownEventError(f"no event type is called {name!r}; {hint}") from None


def schema(event: Event | type[Event], /) -> dict[str, JSON]:
    """
    Return the JSON Schema (2020-12) of the fields of *event*'s type.

    Units are given as ``x-unit``, content kinds as ``x-content``, and what the class keywords
    say as ``x-harken``.
    """
    info = describe(event)
    (reference,), components = msgspec.json.schema_components([info.cls])
    own = components.pop(reference["$ref"].rpartition("/")[2])
    for field in own["properties"].values():
        # msgspec gives a default as it is in Python; JSON has no tuples.
        if isinstance(field.get("default"), tuple):
            field["default"] = list(field["default"])
    result: dict[str, JSON] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": info.name,
        **{member: value for member, value in own.items() if member != "title"},
        "x-harken": {
            "audit": info.audit,
            "action": info.action,
            "resource": info.resource,
            "schema_version": info.schema_version,
            "ends": event_name(info.ends) if info.ends else None,
        },
    }
    if components:
        result["$defs"] = components
    return result


def decode(name: str, data: bytes | Mapping[str, JSON], /) -> Event:
    """
    Make an event from data that comes from outside the process; unknown fields are ignored.

    Args:
        name: The dotted name of the type.

        data: The event's own fields, as JSON text or decoded.

    Raises:
        UnknownEventError: No type has that name.

        EventDataError: A field is missing or has the wrong type; the message names it.
    """
    cls = find(name)
    try:
        if isinstance(data, bytes):
            return msgspec.json.decode(data, type=cls)
        return msgspec.convert(dict(data), cls)
    except msgspec.DecodeError as error:
        raise EventDataError(f"{name}: {error}; see `harken schema {name}`") from error
