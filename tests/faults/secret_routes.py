"""
Every kind of secret, in every place, through every route that leaves the process.

What leaves the process is then searched for any eight characters of any secret. Prints how much
was sent and looked through by route; exits with 1 when anything was found.

    python tests/faults/secret_routes.py [share]

With a share, only each so many-th payload is sent: 10 takes a tenth of the time.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import logging
import os
import re
import sys
import tempfile
import threading
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import structlog

sys.path.insert(0, str(Path(__file__).parents[1]))

import harken
from harken import Bus, Envelope, Event
from harken.body import MAX_TEXT
from harken.catalog import ToolStarted
from harken.sinks.audit import AuditLog
from harken.sinks.otel import SpanRecorder, console_exporter, file_exporter
from harken.sinks.prometheus import PrometheusInstrumenter
from harken.sinks.structlog import LogHandler, configure_logging
from test_redaction import MADE, SECRET_NAMES, SECRETS, some

ALL_CONTENT: Any = ("arguments", "result", "text", "thinking", "messages")

# Characters after which something is cut somewhere: keys, resources, scopes, texts of spans.
LIMITS = (256, 512, 1024, 4096)


class Thing(Event, name="thing.seen", audit=True, resource="thing:{label}"):
    """
    An event with a field for anything, which is what it is about.
    """

    label: Any = ""
    more: Any = None


class Shown:
    """
    An object that prints as a text.
    """

    def __init__(self, text: str) -> None:
        self._text = text

    def __str__(self) -> str:
        return self._text


def fresh() -> str:
    """
    Make up a value that only its name gives away.
    """
    return some("abcdefghjkmnpqrstuvwxyz", 14)


def forms(text: str) -> Iterator[object]:
    """
    Yield *text* in the forms in which it may stand in a payload.
    """
    nested = json.dumps({"note": text, "list": [text]})
    yield from (text, f"see {text} for it", f"one\n{text}\ntwo", f"<{text}>")
    yield from ([text], {text: 1}, {"a": {"b": [{"c": text}]}}, (text,), {text})
    yield from (nested, json.dumps([nested]), repr({"x": text}), Shown(text))
    yield from (text.encode(), {text.encode(): text.encode()}, ValueError(text))


def named() -> Iterator[object]:
    """
    Yield payloads whose secrets are known by their names.
    """
    for name in SECRET_NAMES:
        members: list[object] = [
            {name: fresh()},
            {name: int(some("123456789", 12))},
            {name: [fresh(), fresh()]},
            {name: {"user": fresh(), "more": [fresh()]}},
            {name: {"type": "plain", "value": fresh()}},
            {name: fresh().encode()},
            {name: Shown(fresh())},
            {"name": name, "value": fresh()},
            {"value": fresh(), "key": name},
            [[name, fresh()], ["Accept", "*/*"]],
        ]
        if name.replace("_", "").isalnum():
            members += [[f"{name}={fresh()}"], [f"{name}={fresh()} and {fresh()}"]]
            members += [["run", f"--{name}", fresh()], ["run", f"--{name}={fresh()} {fresh()}"]]
        yield from members
        plain = members[:5] + members[7:]
        yield json.dumps(plain)
        yield {"body": json.dumps({"inner": json.dumps(plain)})}
        yield f"got {json.dumps({name: fresh()})} back"
        yield f"got { ({name: fresh()})!r} back"


def cut(length: int, secret: str, pieces: int) -> Iterator[str]:
    """
    Yield texts in which a cut after *length* characters goes through *secret* in many places.
    """
    for piece in range(pieces + 1):
        offset = min(length, (len(secret) + 1) * piece // pieces)
        yield f"{'. ' * length}"[: length - offset] + secret


class Routes:
    """
    The sinks and streams that an application has, all in one folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stderr = io.StringIO()
        self.console = io.StringIO()
        self.sent = Counter[str]()
        self.bus = Bus(capture_content=ALL_CONTENT)
        self.metrics = PrometheusInstrumenter(port=0, file_path=folder / "metrics.prom")
        options: Any = {"capacity": 1_000_000, "capacity_bytes": None}
        audit = AuditLog(folder / "audit.jsonl")
        spilling = AuditLog(folder / "busy" / "audit.jsonl", lock_wait=0.01)
        self.lock = os.open(folder / "busy" / "audit.jsonl", os.O_RDONLY)
        fcntl.flock(self.lock, fcntl.LOCK_EX)
        spans = file_exporter(folder / "spans.jsonl")
        self.bus.attach(audit)
        self.bus.attach(spilling, Thing)
        self.bus.attach(LogHandler(path=folder / "events.json", content=True), **options)
        self.bus.attach(
            LogHandler(path=folder / "events.txt", format="text", content=True), **options
        )
        self.bus.attach(SpanRecorder(spans, content=True, point_events="span_events"), **options)
        self.bus.attach(SpanRecorder(console_exporter(self.console), content=True), **options)
        self.bus.attach(self.metrics, **options)
        self.bus.attach(Failing(), Thing)

    def publish(self, value: object) -> None:
        """
        Send *value* through every field and every surrounding of events.
        """
        self.sent["payloads"] += 1
        text = value if isinstance(value, str) else str(value)
        with (
            harken.scope(
                actor=f"agent:{text}",
                run_id=text,
                session_id=text,
                request_id=text,
                phase=text,
                correlation_id=text,
                on_behalf_of=text,
                note=value,
            ),
            contextlib.suppress(ValueError),
        ):
            self.bus.publish(Thing(label=value, more={"x": value}), attributes={"mine": value})
            self.bus.publish(Thing(label=text), causes=[text])
            with self.bus.operation(ToolStarted(tool_name=text, arguments={"value": value})):
                raise ValueError(text)
            with self.bus.operation(ToolStarted(tool_name="t", arguments=value)) as call:
                call.complete(result=value)

    def publish_whole(self, value: object) -> None:
        """
        Send *value* only where its structure stays: in payloads and attributes.
        """
        self.sent["payloads"] += 1
        self.bus.publish(Thing(label="x", more=value), attributes={"mine": value})
        with self.bus.operation(ToolStarted(tool_name="t", arguments=value)) as call:
            call.complete(result=value)

    def outputs(self) -> dict[str, str]:
        """
        Return all that has left the process, by route.
        """
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.metrics.port}/metrics",
            headers={"Accept": "application/openmetrics-text; version=1.0.0"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            found = {"metrics over HTTP": answer.read().decode()}
        # When the log can be written, what was spilled is put into it.
        (spill,) = self.folder.glob("busy/*.spill-*")
        found["spill file"] = spill.read_text()
        fcntl.flock(self.lock, fcntl.LOCK_UN)
        os.close(self.lock)
        self.bus.close(60)
        for path in sorted(self.folder.rglob("*")):
            if path.is_file():
                found[str(path.relative_to(self.folder))] = path.read_text()
        return {**found, "console": self.console.getvalue()}


class Failing:
    """
    A sink that fails with what it was given in its message.
    """

    name = "failing"
    delivery = "inline"
    quarantine = False
    failures = 0

    def write(self, batch: Sequence[Envelope[Any]], /) -> None:
        # A new class each time: only the first failure of a kind is logged.
        self.failures += 1
        raise type(f"Failed{self.failures}", (OSError,), {})(f"not sent: {batch[0].event.label}")


def log(route: str, value: object, logger: Any) -> None:
    """
    Log *value* in each way that *logger* of structlog or `logging` has.
    """
    try:
        try:
            raise LookupError(value)
        except LookupError as error:
            raise RuntimeError(f"failed: {value}") from error
    except RuntimeError as error:
        error.add_note(str(value))
        if route.startswith("structlog"):
            logger.exception(str(value), value=value, mine={"x": value})
        else:
            logger.exception("with %s", value, extra={"mine": value})
    logger.warning(value)


def logged(form: Any, values: Sequence[object]) -> str:
    """
    Return what the application's logging makes of *values*, tracebacks and threads included.
    """
    stream = io.StringIO()
    with configure_logging(form, stream=stream, force=True):
        for value in values:
            log("structlog", value, structlog.get_logger("app"))
            log("logging", value, logging.getLogger("app"))
        thread = threading.Thread(target=raising, args=(values[0],))
        thread.start()
        thread.join()
    return stream.getvalue()


def raising(value: object) -> None:
    """
    Raise an error that nobody catches.
    """
    raise RuntimeError(str(value))


def widths(made: str) -> int:
    """
    Return how many characters of what was *made* up are a leak.
    """
    return len(made) if made.isdigit() else min(8, len(made))


# Of a hundred thousand digests, eight digits of one are now and then those of a secret by chance.
DIGESTS = re.compile(r'"(?:prev|hash|head|mac)":"[0-9a-f]{64}"')


def search(outputs: dict[str, str]) -> list[str]:
    """
    Return the leaks in *outputs*, each with its route and what stands around it.
    """
    windows: dict[int, dict[str, str]] = {}
    for made in MADE:
        width = widths(made)
        if len(made) >= 5:
            known = windows.setdefault(width, {})
            known.update((made[i : i + width], made) for i in range(len(made) - width + 1))
    leaks: list[str] = []
    for route, output in outputs.items():
        text = DIGESTS.sub("", output)
        for width, known in windows.items():
            # Only runs of the letters that secrets are made of can be one.
            found = {
                run[i : i + width]
                for run in set(re.findall(rf"[A-Za-z0-9_-]{{{width},}}", text))
                for i in range(len(run) - width + 1)
            } & known.keys()
            # One piece of each secret is enough to know it.
            for piece in {known[piece]: piece for piece in sorted(found)}.values():
                around = text[max(0, text.index(piece) - 160) : text.index(piece) + 60]
                leaks.append(f"{route}: {piece!r} in ...{around!r}")
    return leaks


def main(share: int) -> int:
    """
    Print the figures; return 1 when something leaked.
    """
    with tempfile.TemporaryDirectory() as name:
        routes = Routes(Path(name))
        secrets = [text for _, text in SECRETS.values()]
        known = list(named())
        short = [secret for secret in secrets if len(secret) < 400]
        cuts = [
            text
            for number, secret in enumerate(short)
            for text in cut(LIMITS[number % len(LIMITS)], secret, 6)
        ]
        longest = [text for secret in short[::20] for text in cut(MAX_TEXT, secret, 2)]
        assert all(search({"in the clear": secret}) for secret in secrets)
        anywhere = [value for secret in short for value in forms(secret)] + cuts[::9]
        whole = [value for secret in secrets for value in forms(secret) if secret not in short]
        whole += [*known, *cuts, *map(Shown, cuts), *longest]
        with contextlib.redirect_stderr(routes.stderr):
            for value in anywhere[::share]:
                routes.publish(value)
            for value in whole[::share]:
                routes.publish_whole(value)
            routes.bus.flush(60)
            outputs = routes.outputs()
        outputs["stderr"] = routes.stderr.getvalue()
        values = [*anywhere, *known[::3], *longest[:3]]
        # What is no JSON takes another way.
        values += [[text, float("nan")] for text in (*short, *longest)]
        values = values[::share]
        for form in ("json", "text"):
            outputs[f"application's log, {form}"] = logged(form, values)
        routes.sent["log calls"] = 8 * len(values)
    for route, text in outputs.items():
        marks = text.count("[REDACTED:")
        print(f"{route:<28}{len(text) / 1e6:>9.2f} MB{marks:>9} redacted")
    leaks = search(outputs)
    print(f"{len(secrets)} secrets by form, {len(known)} payloads by name, {len(cuts)} cuts")
    print(f"{routes.sent['payloads']} payloads, {routes.sent['log calls']} log calls")
    for leak in leaks:
        print(leak)
    print(f"{len(leaks)} leaks")
    silent = [route for route, text in outputs.items() if "[REDACTED:" not in text]
    if silent:
        print(f"nothing was redacted in {', '.join(silent)}")
    return 1 if leaks or silent else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1))
