"""
Settings, and `configure()`: the one place that knows every sink.
"""

from __future__ import annotations

import difflib
import logging
import os
import signal
import sys
import threading
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args, get_origin
from weakref import WeakKeyDictionary

import msgspec

from harken.bus import Bus
from harken.delivery import Sink
from harken.errors import ClosedBusError, RedactionError, SettingsError, TraceExporterError
from harken.event import ContentKind, Event, find
from harken.subscription import Subscription

if TYPE_CHECKING:
    from harken.redaction import Redactor

PREFIX = "HARKEN_"

Level: TypeAlias = Literal["debug", "info", "warning", "error", "critical", "off"]

_log = logging.getLogger("harken")

# Variables with the prefix that are no settings.
_OTHER_VARIABLES = frozenset(
    ("CONFIG", "ACTOR", "AUDIT_LOG", "FORWARD_TO", "PAGER", "REQUIRE_SERVERS")
)
_SWITCH = {"on": True, "yes": True, "off": False, "no": False}


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    What `configure()` builds.

    Taken, the later ones winning, from a TOML file (named by ``HARKEN_CONFIG``), from the
    environment (each field in upper case behind ``HARKEN_``; lists are separated by commas,
    mappings are ``name=value`` pairs separated by commas), and from keyword arguments.

    Attributes:
        audit: Whether there is an audit log.

        audit_jsonl_path:
            Where it is; by default ``audit.jsonl`` in the folder of *service_name* under
            ``$XDG_DATA_HOME`` or ``~/.local/share``.

        audit_durability: ``process``, ``group`` or ``async``; see `AuditLog`.

        audit_on_failure: ``degrade`` or ``raise``; see `AuditLog`.

        audit_max_bytes: Size at which the file is rotated; None for never.

        audit_compress: ``zstd`` compresses archived files; None leaves them as they are.

        audit_key_path: A file made by ``harken keygen``, whose key seals the log.

        audit_signing_key_path: A file made by ``harken keygen --signing``, which signs it.

        audit_types: From a dotted name, or a pattern such as ``tool.*``, to whether it is
            audited.

        metrics: Whether metrics are counted.

        metrics_prometheus_port: Where ``/metrics`` is served; 0 for a free port, None for
            nowhere.

        metrics_prometheus_address: The address it is served at; loopback by default.

        metrics_prometheus_certfile: The server's certificate in PEM, for HTTPS instead of HTTP.

        metrics_prometheus_keyfile: Its private key; by default it is in the same file.

        metrics_prometheus_client_cafile: Authorities in PEM; only clients with a certificate of
            theirs are served.

        metrics_file_path: A file for node-exporter's textfile collector.

        metrics_namespace: The first word of the names of the agents' metrics.

        metrics_names: ``harken``, or ``semconv`` for the names of OpenTelemetry's GenAI
            conventions, where there are any.

        log: Whether events are logged.

        log_format: ``json``, ``ecs`` (JSON with the names of the Elastic Common Schema) or
            ``text``.

        log_level: The lowest level that is logged; ``off`` for none but what *log_levels* names.

        log_levels: From a dotted name or a pattern to the lowest level at which those events are
            logged, or ``off``; a transient type such as ``llm.chunk`` is logged only if named here.

        log_path: The file; by default standard error.

        log_content: Whether captured content is in the log.

        log_max_repeats: How many lines that say the same are logged within a minute; None for
            all. What is not logged is counted, and said by a later line.

        log_application: Whether the whole application's logging is configured, too.

        traces:
            ``off``, ``console``, ``file:PATH`` or ``otlp``; by default ``otlp`` when
            ``OTEL_EXPORTER_OTLP_ENDPOINT`` is set, else off.

        trace_sample_ratio: The part of the traces that is kept, from 0 to 1; by default what
            ``OTEL_TRACES_SAMPLER`` says, else all.

        trace_content: Whether captured content is on the spans; by default what
            ``OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT`` says, else not.

        trace_point_events:
            What events that are no operations become: ``none``, ``span_events`` of the span they
            happen in, or ``log_events``, which go to the same collector and need ``otlp``.

        trace_current_span: Whether the spans of other libraries inside of an operation come below
            its span.

        attributes_prefix: The first word of the agents' span attributes.

        service_name: By default ``OTEL_SERVICE_NAME``, else ``harken``.

        capture_content: Which content is kept beside its digest and size.

        redaction_patterns:
            More kinds of secrets: from a name to a regular expression of Python's `re`, of which
            the group ``v``, if there is one, is taken out. One that has a comma in it belongs
            into the file.

        redaction_names: More names whose values are secrets, compared without case.

        redaction_allow_names: Names whose values are never secrets, compared without case.

        redaction_allow_values: Values that are no secrets, exactly as they are.

        redaction_hash_key_path:
            A file with a random key of at least 16 bytes; white space around it does not count.
            A secret is then replaced by ``[HMAC:<12 hex>]``, the same each time, so that it can
            be followed without being known.

        close_on_sigterm: Whether SIGTERM ends the process as an exit does, so that nothing is
            lost; without, Python dies of it on the spot.
    """

    audit: bool = True
    audit_jsonl_path: str | None = None
    audit_durability: Literal["process", "group", "async"] = "process"
    audit_on_failure: Literal["degrade", "raise"] = "degrade"
    audit_max_bytes: int | None = None
    audit_compress: Literal["zstd"] | None = None
    audit_key_path: str | None = None
    audit_signing_key_path: str | None = None
    audit_types: dict[str, bool] = {}
    metrics: bool = True
    metrics_prometheus_port: int | None = None
    metrics_prometheus_address: str = "127.0.0.1"
    metrics_prometheus_certfile: str | None = None
    metrics_prometheus_keyfile: str | None = None
    metrics_prometheus_client_cafile: str | None = None
    metrics_file_path: str | None = None
    metrics_namespace: str = "infra_agent"
    metrics_names: Literal["harken", "semconv"] = "harken"
    log: bool = True
    log_format: Literal["json", "text", "ecs"] = "json"
    log_level: Level = "info"
    log_levels: dict[str, Level] = {}
    log_path: str | None = None
    log_content: bool = False
    log_max_repeats: int | None = None
    log_application: bool = False
    traces: str | None = None
    trace_sample_ratio: float | None = None
    trace_content: bool | None = None
    trace_point_events: Literal["none", "span_events", "log_events"] = "none"
    trace_current_span: bool = False
    attributes_prefix: str = "infra_agent"
    service_name: str | None = None
    capture_content: tuple[ContentKind, ...] = ("arguments",)
    redaction_patterns: dict[str, str] = {}
    redaction_names: tuple[str, ...] = ()
    redaction_allow_names: tuple[str, ...] = ()
    redaction_allow_values: tuple[str, ...] = ()
    redaction_hash_key_path: str | None = None
    close_on_sigterm: bool = False

    @classmethod
    def load(cls, *, environ: Mapping[str, str] | None = None, **given: Any) -> Settings:
        """
        Return the settings from the file, the environment and *given*.

        Args:
            environ: By default the process's own environment.

        Raises:
            SettingsError: A setting is unknown or malformed; the message names it and where it
                came from.
        """
        environ = os.environ if environ is None else environ
        return _completed(_given(environ, given), environ)

    def audit_path(self, environ: Mapping[str, str] | None = None) -> Path:
        """
        Return where the audit log is.

        Raises:
            SettingsError: No path is set, and there is no home folder.
        """
        if self.audit_jsonl_path is not None:
            return Path(self.audit_jsonl_path).expanduser()
        environ = os.environ if environ is None else environ
        folder = environ.get("XDG_DATA_HOME")
        if not folder or not Path(folder).is_absolute():
            try:
                folder = str(Path.home() / ".local" / "share")
            except RuntimeError as error:
                raise SettingsError(
                    f"there is no home folder for the audit log; set {PREFIX}AUDIT_JSONL_PATH"
                ) from error
        service = (self.service_name or "harken").replace(os.sep, "_").lstrip(".") or "harken"
        return Path(folder) / service / "audit.jsonl"


def _given(environ: Mapping[str, str], keywords: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return what somebody has said, without the defaults.
    """
    settings: dict[str, Any] = {}
    for source, values in (
        *_from_file(environ.get(f"{PREFIX}CONFIG")),
        *_from_environment(environ),
    ):
        settings |= _checked(values, source, strict=False)
    return settings | _checked(keywords, "keyword argument", strict=True)


def _completed(given: Mapping[str, Any], environ: Mapping[str, str]) -> Settings:
    settings = dict(given)
    if settings.get("service_name") is None:
        settings["service_name"] = environ.get("OTEL_SERVICE_NAME") or "harken"
    if settings.get("traces") is None:
        settings["traces"] = _default_traces(environ)
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        settings["traces"] = "off"
    completed = Settings(**settings)
    _check_files(completed)
    if completed.trace_point_events == "log_events" and completed.traces not in ("off", "otlp"):
        raise SettingsError(
            "trace_point_events='log_events' needs traces='otlp', "
            f"not {completed.traces!r}; use span_events"
        )
    return completed


def _check_files(settings: Settings) -> None:
    """
    Make sure that no two outputs go into one file.

    Raises:
        SettingsError: Two do.
    """
    named = {
        "audit_jsonl_path": settings.audit_jsonl_path if settings.audit else None,
        "log_path": settings.log_path if settings.log else None,
        "metrics_file_path": settings.metrics_file_path if settings.metrics else None,
        "traces": (settings.traces or "").partition("file:")[2] or None,
    }
    users: dict[str, str] = {}
    for setting, path in named.items():
        if path is not None:
            other = users.setdefault(os.path.realpath(os.path.expanduser(path)), setting)
            if other != setting:
                raise SettingsError(
                    f"{other} and {setting} name the same file, {path}; give each its own"
                )


def _default_traces(environ: Mapping[str, str]) -> str:
    endpoints = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    return "otlp" if any(environ.get(name) for name in endpoints) else "off"


def _from_file(path: str | None) -> Iterator[tuple[str, dict[str, Any]]]:
    if not path:
        return
    try:
        with open(path, "rb") as file:
            values = tomllib.load(file)
    except (OSError, ValueError) as error:
        raise SettingsError(f"{PREFIX}CONFIG={path}: {error}; name a readable TOML file") from error
    yield path, values


def _from_environment(environ: Mapping[str, str]) -> Iterator[tuple[str, dict[str, Any]]]:
    fields = {field.name: field for field in msgspec.structs.fields(Settings)}
    for variable, text in environ.items():
        if not variable.startswith(PREFIX) or text == "":
            continue
        name = variable.removeprefix(PREFIX)
        if name.lower() in fields:
            yield variable, {name.lower(): _decoded(text, fields[name.lower()].type)}
        elif name not in _OTHER_VARIABLES:
            near = difflib.get_close_matches(name.lower(), fields, n=1)
            hint = f"; did you mean {PREFIX}{near[0].upper()}?" if near else ""
            _log.warning("the environment variable %s is no setting of harken%s", variable, hint)


def _decoded(text: str, kind: Any) -> Any:
    origin = get_origin(kind)
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if origin is tuple:
        return [] if parts == ["none"] else parts
    if origin is dict:
        pairs = (part.partition("=") for part in parts)
        return {name.strip(): value.strip() for name, _, value in pairs}
    return text.strip()


def _checked(values: Mapping[str, Any], source: str, *, strict: bool) -> dict[str, Any]:
    fields = {field.name: field.type for field in msgspec.structs.fields(Settings)}
    checked: dict[str, Any] = {}
    for name, value in values.items():
        if name not in fields:
            near = difflib.get_close_matches(name, fields, n=1)
            hint = f"did you mean {near[0]}?" if near else f"settings are {', '.join(fields)}"
            raise SettingsError(f"{source}: there is no setting {name!r}; {hint}")
        plain = _plain(value, fields[name])
        if isinstance(plain, str) and "\0" in plain:
            raise SettingsError(f"{source}: {name}={value!r} has a NUL character; leave it out")
        try:
            checked[name] = msgspec.convert(plain, fields[name], strict=strict)
        except msgspec.ValidationError as error:
            words = _words(fields[name])
            hint = f"; use {', '.join(words)}" if words else f" ({error})"
            raise SettingsError(f"{source}: {name}={value!r} is not understood{hint}") from error
    _check_ranges(Settings(**checked), source)
    return checked


def _plain(value: object, kind: Any) -> object:
    if isinstance(value, Path):
        return str(value)
    if kind is bool and isinstance(value, str):
        return _SWITCH.get(value.lower(), value)
    if get_origin(kind) is dict and isinstance(value, Mapping):
        return {name: _plain(item, get_args(kind)[1]) for name, item in value.items()}
    return value


def _words(kind: Any) -> tuple[str, ...]:
    """
    Return the words that a field of this type admits; none when it admits any.
    """
    if get_origin(kind) is Literal:
        return get_args(kind)
    return next(filter(None, map(_words, get_args(kind))), ())


def _check_ranges(settings: Settings, source: str) -> None:
    port = settings.metrics_prometheus_port
    if port is not None and not 0 <= port <= 65_535:
        raise SettingsError(f"{source}: metrics_prometheus_port={port} is no port; use 0 to 65535")
    ratio = settings.trace_sample_ratio
    if ratio is not None and not 0.0 <= ratio <= 1.0:
        raise SettingsError(f"{source}: trace_sample_ratio={ratio} is not between 0 and 1")
    for name in ("audit_max_bytes", "log_max_repeats"):
        most: int | None = getattr(settings, name)
        if most is not None and most < 1:
            raise SettingsError(f"{source}: {name}={most} must be positive")
    if settings.redaction_patterns:
        from harken.redaction import Redactor

        try:
            Redactor(patterns=settings.redaction_patterns)
        except RedactionError as error:
            raise SettingsError(f"{source}: redaction_patterns: {error}") from error
    traces = settings.traces
    known = ("off", "console", "otlp")
    if traces is not None and traces not in known and not traces.removeprefix("file:") != traces:
        raise SettingsError(
            f"{source}: traces={traces!r} is unknown; use off, console, file:PATH or otlp"
        )
    if traces == "file:":
        raise SettingsError(f"{source}: traces='file:' names no file; use file:PATH")


_configured: WeakKeyDictionary[Bus, list[Subscription]] = WeakKeyDictionary()


def configure(bus: Bus | None = None, **settings: Any) -> Bus:
    """
    Attach the audit log, metrics, logs and traces that the settings ask for.

    A second call for the same bus replaces what the earlier one attached, without losing an
    event. What the application attached itself stays.

    Args:
        bus: By default a new one.

        settings: The fields of `Settings`; they win over environment and file, also when None.

    Returns:
        The bus.

    Raises:
        SettingsError: A setting is malformed; here and in what follows nothing was changed.

        ClosedBusError: The bus was closed.

        UnknownEventError: A setting names an event type that does not exist.

        AuditPathError: The audit log cannot be opened.

        AuditKeyError: A key of the audit log cannot be used.

        MetricsServerError: The metrics port cannot be served.

        TraceExporterError: The trace exporter that a setting asks for cannot be made. Where only
            ``OTEL_EXPORTER_OTLP_ENDPOINT`` asks for it, an error is logged.

        LoggingError: The application's logging is configured already.
    """
    given = _given(os.environ, settings)
    chosen = _completed(given, os.environ)
    # Found first: a type that is misspelt must not leave half of the sinks behind.
    named = _named_types(chosen.log_levels)
    _named_types(chosen.audit_types)
    redactor = _redactor(chosen)
    if bus is None:
        bus = Bus()
    elif bus.is_closed:
        raise ClosedBusError("cannot configure the bus: it is closed; make a new one")
    earlier = [item for item in _configured.get(bus, ()) if item.active]
    asked = given.get("traces") is not None
    sinks = _made(chosen, named, earlier, redactor, traces_asked=asked)
    bus.configure(
        capture_content=chosen.capture_content,
        audit_types=chosen.audit_types,
        redaction=redactor,
    )
    _configured[bus] = bus.replace(earlier, sinks)
    if chosen.close_on_sigterm:
        _exit_on_sigterm()
    return bus


def _made(
    settings: Settings,
    named: tuple[type[Event], ...],
    earlier: Sequence[Subscription],
    redactor: Redactor | None,
    *,
    traces_asked: bool,
) -> list[tuple[Sink, tuple[type[Event], ...]]]:
    """
    Return the new sinks, each with its types; or none at all, and what was before goes on.
    """
    wanted = list(_wanted(settings, named))
    made: dict[Callable[[Settings], Sink], Sink] = {}
    try:
        # The metrics last: a port has to be let go of before it can be taken over.
        for make, _ in sorted(wanted, key=lambda pair: pair[0] is _instrumenter):
            if make is _instrumenter:
                _let_go_of_port(settings, earlier)
            try:
                made[make] = make(settings)
            except TraceExporterError as error:
                # Whoever set up the collector for all programs did not ask this one.
                if traces_asked:
                    raise
                _log.error("there are no traces: %s", error)
        if settings.log_application:
            _configure_application(settings, redactor)
    except BaseException:
        for sink in made.values():
            _close(sink)
        raise
    return [(made[make], types) for make, types in wanted if make in made]


def _let_go_of_port(settings: Settings, earlier: Sequence[Subscription]) -> None:
    port = settings.metrics_prometheus_port
    for item in earlier:
        if port and item.sink is not None and getattr(item.sink, "port", None) == port:
            _close(item.sink)


def _wanted(
    settings: Settings, named: tuple[type[Event], ...]
) -> Iterator[tuple[Callable[[Settings], Sink], tuple[type[Event], ...]]]:
    if settings.audit:
        yield _audit_log, ()
    if settings.metrics:
        yield _instrumenter, ()
    # A handler that writes nothing would still have every event made and queued for it.
    if settings.log and {settings.log_level, *settings.log_levels.values()} != {"off"}:
        yield _log_handler, (Event, *named) if named else ()
    if settings.traces != "off":
        yield _span_recorder, ()


def _named_types(levels: Mapping[str, object]) -> tuple[type[Event], ...]:
    names = [name for name in levels if "*" not in name and "?" not in name and "[" not in name]
    return tuple(find(name) for name in names)


def _at_home(path: str | None) -> str | None:
    return None if path is None else os.path.expanduser(path)


def _audit_log(settings: Settings) -> Sink:
    from harken.sinks.audit import AuditLog

    return AuditLog(
        settings.audit_path(),
        durability=settings.audit_durability,
        on_failure=settings.audit_on_failure,
        max_bytes=settings.audit_max_bytes,
        compress=settings.audit_compress,
        key_path=_at_home(settings.audit_key_path),
        signing_key_path=_at_home(settings.audit_signing_key_path),
    )


def _instrumenter(settings: Settings) -> Sink:
    from harken.sinks.prometheus import PrometheusInstrumenter

    return PrometheusInstrumenter(
        namespace=settings.metrics_namespace,
        names=settings.metrics_names,
        port=settings.metrics_prometheus_port,
        address=settings.metrics_prometheus_address,
        certfile=_at_home(settings.metrics_prometheus_certfile),
        keyfile=_at_home(settings.metrics_prometheus_keyfile),
        client_cafile=_at_home(settings.metrics_prometheus_client_cafile),
        file_path=_at_home(settings.metrics_file_path),
    )


def _log_handler(settings: Settings) -> Sink:
    from harken.sinks.structlog import LogHandler

    return LogHandler(
        format=settings.log_format,
        level=settings.log_level,
        levels=settings.log_levels,
        path=_at_home(settings.log_path),
        content=settings.log_content,
        service_name=settings.service_name,
        max_repeats=settings.log_max_repeats,
    )


def _span_recorder(settings: Settings) -> Sink:
    from harken.sinks.otel import (
        SpanRecorder,
        console_exporter,
        file_exporter,
        otlp_exporter,
        ratio_from_environment,
    )

    traces = settings.traces or "off"
    if traces == "console":
        exporter = console_exporter()
    elif traces == "otlp":
        exporter = otlp_exporter()
    else:
        exporter = file_exporter(os.path.expanduser(traces.removeprefix("file:")))
    ratio = settings.trace_sample_ratio
    return SpanRecorder(
        exporter,
        service_name=settings.service_name,
        ratio=ratio_from_environment() if ratio is None else ratio,
        attributes_prefix=settings.attributes_prefix,
        content=settings.trace_content,
        point_events=settings.trace_point_events,
        current_span=settings.trace_current_span,
    )


def _configure_application(settings: Settings, redactor: Redactor | None) -> None:
    from harken.sinks.structlog import configure_logging

    configure_logging(
        settings.log_format,
        level=settings.log_level,
        redactor=redactor,
        max_repeats=settings.log_max_repeats,
    )


def _redactor(settings: Settings) -> Redactor | None:
    """
    Return what the settings say of redaction; None when they say nothing.

    Raises:
        SettingsError: The key cannot be used.
    """
    path = settings.redaction_hash_key_path
    rules = (
        settings.redaction_patterns,
        settings.redaction_names,
        settings.redaction_allow_names,
        settings.redaction_allow_values,
    )
    if path is None and not any(rules):
        return None
    from harken.redaction import Redactor

    try:
        return Redactor(
            patterns=settings.redaction_patterns,
            keys=settings.redaction_names,
            allow_keys=settings.redaction_allow_names,
            allow=settings.redaction_allow_values,
            hash_key=None if path is None else _hash_key(path),
        )
    except RedactionError as error:
        raise SettingsError(f"redaction_hash_key_path={path}: {error}") from error


def _hash_key(path: str) -> bytes:
    file = Path(path).expanduser()
    try:
        # A pipe in its place would keep everybody waiting.
        if file.exists() and not file.is_file():
            raise SettingsError(
                f"redaction_hash_key_path={path} is no regular file; name one that holds the key"
            )
        return file.read_bytes().strip()
    except OSError as error:
        raise SettingsError(
            f"redaction_hash_key_path={path}: {error.strerror or error}; name a readable file that "
            "holds the key"
        ) from error


def _close(sink: Sink) -> None:
    close: Callable[[float], None] | None = getattr(sink, "close", None)
    if close is not None:
        close(5.0)


def _exit_on_sigterm() -> None:
    """
    Turn SIGTERM into a normal exit, unless somebody else handles it.

    The handler only raises: closing the bus right there could wait for a lock that the
    interrupted code holds. At the exit that follows, the bus closes itself.
    """

    def leave(signum: int, frame: FrameType | None) -> None:
        sys.exit(128 + signum)

    if threading.current_thread() is not threading.main_thread():
        _log.warning("close_on_sigterm has no effect outside of the main thread")
    elif signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, leave)
