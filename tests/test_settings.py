"""
Settings and `configure()`: where they come from, what they build, and what is refused.
"""

from __future__ import annotations

import hmac
import json
import logging
import os
import signal
import socket
import stat
import subprocess
import sys
import textwrap
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import harken
from harken import Bus, Settings
from harken.catalog import LlmChunk, LlmCompleted, PrCreated, RunStarted, TextEmitted, ToolStarted
from harken.errors import (
    AuditPathError,
    ClosedBusError,
    HarkenError,
    MetricsServerError,
    SettingsError,
    UnknownEventError,
)
from harken.redaction import Redactor
from harken.sinks.otel import current_traceparent
from harken.testing import Captured


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


class TestSources:
    def test_defaults(self) -> None:
        """
        Without anything said there are audit log, metrics and logs, and no traces.
        """
        settings = Settings.load(environ={})

        assert ("harken", "off", True, True, True) == (
            settings.service_name,
            settings.traces,
            settings.audit,
            settings.metrics,
            settings.log,
        )

    def test_keywords_win_over_environment_over_file(self, tmp_path: Path) -> None:
        """
        The nearer source wins, setting by setting.
        """
        config = tmp_path / "harken.toml"
        config.write_text('log_format = "text"\nlog_level = "error"\nservice_name = "filed"\n')
        settings = Settings.load(
            environ={
                "HARKEN_CONFIG": str(config),
                "HARKEN_LOG_LEVEL": "debug",
                "HARKEN_SERVICE_NAME": "exported",
            },
            service_name="said",
        )

        assert ("text", "debug", "said") == (
            settings.log_format,
            settings.log_level,
            settings.service_name,
        )

    def test_environment(self) -> None:
        """
        Every kind of value can be written into a variable.
        """
        settings = Settings.load(
            environ={
                "HARKEN_AUDIT": "off",
                "HARKEN_METRICS": "no",
                "HARKEN_LOG_APPLICATION": "TRUE",
                "HARKEN_METRICS_PROMETHEUS_PORT": "9464",
                "HARKEN_TRACE_SAMPLE_RATIO": "0.25",
                "HARKEN_CAPTURE_CONTENT": "arguments, result",
                "HARKEN_AUDIT_TYPES": "llm.completed=on,tool.*=off",
                "HARKEN_LOG_LEVELS": "llm.chunk=debug",
                "HARKEN_AUDIT_JSONL_PATH": "",
                "OTEL_SERVICE_NAME": "billing",
            }
        )

        assert (False, False, True, 9464, 0.25) == (
            settings.audit,
            settings.metrics,
            settings.log_application,
            settings.metrics_prometheus_port,
            settings.trace_sample_ratio,
        )
        assert ("arguments", "result") == settings.capture_content
        assert {"llm.completed": True, "tool.*": False} == settings.audit_types
        assert {"llm.chunk": "debug"} == settings.log_levels
        assert ("billing", None) == (settings.service_name, settings.audit_jsonl_path)
        assert () == Settings.load(environ={"HARKEN_CAPTURE_CONTENT": "none"}).capture_content

    @pytest.mark.parametrize(
        ("environ", "traces"),
        [
            ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318"}, "otlp"),
            ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://localhost:4318/v1/traces"}, "otlp"),
            ({"HARKEN_TRACES": "console"}, "console"),
            ({"HARKEN_TRACES": "console", "OTEL_SDK_DISABLED": "true"}, "off"),
            (
                {"HARKEN_TRACES": "off", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318"},
                "off",
            ),
        ],
    )
    def test_traces(self, environ: dict[str, str], traces: str) -> None:
        """
        Traces are on when an endpoint is known, unless something else is said.
        """
        assert traces == Settings.load(environ=environ).traces

    @pytest.mark.parametrize(
        ("environ", "given", "message"),
        [
            ({}, {"audit_path": "x"}, "keyword argument: there is no setting 'audit_path'; did"),
            ({}, {"zzz": 1}, "there is no setting 'zzz'; settings are audit, audit_jsonl_path"),
            ({}, {"metrics_prometheus_port": "9464"}, "metrics_prometheus_port='9464' is not"),
            (
                {"HARKEN_LOG_FORMAT": "xml"},
                {},
                "HARKEN_LOG_FORMAT: log_format='xml' is not understood; use json, text, ecs",
            ),
            ({"HARKEN_METRICS_PROMETHEUS_PORT": "http"}, {}, "HARKEN_METRICS_PROMETHEUS_PORT: "),
            ({"HARKEN_METRICS_PROMETHEUS_PORT": "70000"}, {}, "70000 is no port; use 0 to 65535"),
            ({"HARKEN_TRACE_SAMPLE_RATIO": "2"}, {}, "2.0 is not between 0 and 1"),
            ({"HARKEN_AUDIT_MAX_BYTES": "0"}, {}, "audit_max_bytes=0 must be positive"),
            ({"HARKEN_LOG_MAX_REPEATS": "0"}, {}, "log_max_repeats=0 must be positive"),
            (
                {"HARKEN_METRICS_NAMES": "otel"},
                {},
                "metrics_names='otel' is not understood; use harken, semconv",
            ),
            ({"HARKEN_TRACES": "jaeger"}, {}, "'jaeger' is unknown; use off, console, file:PATH"),
            ({"HARKEN_TRACES": "file:"}, {}, "names no file"),
            (
                {"HARKEN_TRACES": "console", "HARKEN_TRACE_POINT_EVENTS": "log_events"},
                {},
                "log_events' needs traces='otlp', not 'console'; use span_events",
            ),
            (
                {"HARKEN_REDACTION_PATTERNS": "mine=("},
                {},
                "HARKEN_REDACTION_PATTERNS: redaction_patterns: the pattern 'mine' is malformed",
            ),
            (
                {"HARKEN_REDACTION_PATTERNS": "mine=a{2,3}"},
                {},
                "the name of a pattern must be one word, not '3}'",
            ),
            ({}, {"redaction_patterns": {"mine": "x*"}}, "'mine' matches the empty text"),
            (
                {"HARKEN_AUDIT_JSONL_PATH": "a.jsonl", "HARKEN_LOG_PATH": "./a.jsonl"},
                {},
                "audit_jsonl_path and log_path name the same file, ./a.jsonl; give each its own",
            ),
            (
                {"HARKEN_METRICS_FILE_PATH": "out", "HARKEN_TRACES": "file:out"},
                {},
                "metrics_file_path and traces name the same file",
            ),
            (
                {"HARKEN_CAPTURE_CONTENT": "pictures"},
                {},
                "use arguments, result, text, thinking, messages",
            ),
            ({"HARKEN_CONFIG": "/nowhere/harken.toml"}, {}, "HARKEN_CONFIG=/nowhere/harken.toml: "),
        ],
    )
    def test_malformed(self, environ: dict[str, str], given: dict[str, Any], message: str) -> None:
        """
        A malformed setting is named with where it came from, and what would be right.
        """
        with pytest.raises(SettingsError) as caught:
            Settings.load(environ=environ, **given)
        assert message in str(caught.value)

    def test_redaction(self, tmp_path: Path) -> None:
        """
        What is a secret can be said in a file, in the environment and by keyword.
        """
        config = tmp_path / "harken.toml"
        config.write_text(
            "redaction_names = [\"badge\"]\n[redaction_patterns]\nticket = 'T-\\d{4,6}'\n"
        )
        settings = Settings.load(
            environ={
                "HARKEN_CONFIG": str(config),
                "HARKEN_REDACTION_ALLOW_NAMES": "resume_token, page_secret",
                "HARKEN_REDACTION_HASH_KEY_PATH": "/run/secrets/key",
            },
            redaction_allow_values=["changeme"],
        )

        assert ({"ticket": r"T-\d{4,6}"}, ("badge",), "/run/secrets/key") == (
            settings.redaction_patterns,
            settings.redaction_names,
            settings.redaction_hash_key_path,
        )
        assert (("resume_token", "page_secret"), ("changeme",)) == (
            settings.redaction_allow_names,
            settings.redaction_allow_values,
        )

    def test_none_is_an_answer(self) -> None:
        """
        None as keyword takes back what the environment says.
        """
        environ = {"HARKEN_METRICS_PROMETHEUS_PORT": "9464", "HARKEN_SERVICE_NAME": "billing"}
        settings = Settings.load(
            environ=environ, metrics_prometheus_port=None, service_name=None, traces=None
        )

        assert Settings(service_name="harken", traces="off") == settings

    def test_malformed_file(self, tmp_path: Path) -> None:
        """
        A file that is no TOML, or has an unknown setting, is named.
        """
        config = tmp_path / "harken.toml"
        config.write_text("log_format = ")
        with pytest.raises(SettingsError, match=r"harken\.toml: .*; name a readable TOML file"):
            Settings.load(environ={"HARKEN_CONFIG": str(config)})
        config.write_text('log_fromat = "text"')
        with pytest.raises(
            SettingsError, match=r"harken\.toml: .*'log_fromat'; did you mean log_f"
        ):
            Settings.load(environ={"HARKEN_CONFIG": str(config)})

    def test_unknown_variable(self, caplog: pytest.LogCaptureFixture) -> None:
        """
        A misspelt variable is a warning with the likely name; harken's other ones are not.
        """
        Settings.load(
            environ={"HARKEN_AUDIT_JSON_PATH": "x", "HARKEN_ACTOR": "user:a", "HARKEN_QQ": "1"}
        )

        assert [
            (
                "the environment variable HARKEN_AUDIT_JSON_PATH is no setting of harken; "
                "did you mean HARKEN_AUDIT_JSONL_PATH?"
            ),
            "the environment variable HARKEN_QQ is no setting of harken",
        ] == [record.getMessage() for record in caplog.records]


class TestAuditPath:
    def test_default(self, tmp_path: Path) -> None:
        """
        The audit log is in the data folder of the service.
        """
        settings = Settings.load(environ={}, service_name="../bill/ing")

        assert tmp_path / "_bill_ing" / "audit.jsonl" == settings.audit_path(
            {"XDG_DATA_HOME": str(tmp_path)}
        )

    def test_home(self) -> None:
        """
        Without a data folder it is in the home folder, also when the variable is no full path.
        """
        expected = Path.home() / ".local/share/harken/audit.jsonl"

        assert expected == Settings.load(environ={}).audit_path({"XDG_DATA_HOME": "data"})

    def test_no_home(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        Without a home folder the path has to be said.
        """

        def nowhere() -> Path:
            raise RuntimeError

        monkeypatch.setattr(Path, "home", nowhere)

        with pytest.raises(SettingsError, match="set HARKEN_AUDIT_JSONL_PATH"):
            Settings.load(environ={}).audit_path({})

    def test_modes(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        The default folder and file are readable by their owner only.
        """
        monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
        harken.configure(log=False, metrics=False, service_name="svc").close()

        folder = tmp_path / "svc"
        assert (0o700, 0o600) == (
            stat.S_IMODE(folder.stat().st_mode),
            stat.S_IMODE((folder / "audit.jsonl").stat().st_mode),
        )


class TestConfigure:
    def options(self, folder: Path, **changes: Any) -> dict[str, Any]:
        return {
            "audit_jsonl_path": folder / "audit.jsonl",
            "metrics_file_path": folder / "metrics.prom",
            "log_path": folder / "events.log",
            "traces": f"file:{folder / 'spans.jsonl'}",
        } | changes

    @pytest.mark.parametrize("audit", [True, False])
    @pytest.mark.parametrize("tracing", [True, False])
    def test_audit_and_tracing_are_independent(
        self, tmp_path: Path, audit: bool, tracing: bool
    ) -> None:
        """
        All four combinations of audit and tracing work, with one trace id over two phases.
        """
        header = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
        options = self.options(tmp_path, audit=audit)
        if not tracing:
            options["traces"] = "off"
        bus = harken.configure(**options)
        for phase in ("analysis", "execution"):
            with (
                harken.scope(traceparent=header, phase=phase),
                bus.operation(RunStarted()),
                bus.operation(ToolStarted(tool_name="search")),
            ):
                pass
        bus.close()

        expected = ["events.log", "metrics.prom"]
        if audit:
            expected.append("audit.jsonl")
            records = [r for r in lines(tmp_path / "audit.jsonl") if r["trace_id"]]
            assert {header[3:35]} == {record["trace_id"] for record in records}
            assert ["analysis"] * 4 + ["execution"] * 4 == [r["phase"] for r in records]
        if tracing:
            expected.append("spans.jsonl")
            spans = lines(tmp_path / "spans.jsonl")
            assert ({header[3:35]}, 4) == ({span["trace_id"] for span in spans}, len(spans))
        assert sorted(expected) == files(tmp_path)

    def test_one_call_in_four_outputs(self, tmp_path: Path) -> None:
        """
        The audit log, the log, the span and an exemplar name one tool call by the same ids.
        """
        bus = harken.configure(**self.options(tmp_path, metrics_prometheus_port=0))
        with bus.operation(RunStarted()), bus.operation(ToolStarted(tool_name="search")):
            pass
        bus.flush()
        (instrumenter,) = (
            item.sink for item in bus.subscriptions if item.name == "PrometheusInstrumenter"
        )
        request = urllib.request.Request(
            f"http://127.0.0.1:{instrumenter.port}/metrics",  # type: ignore[union-attr]
            headers={"Accept": "application/openmetrics-text; version=1.0.0"},
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            metrics = answer.read().decode()
        bus.close()

        (record,) = (
            r for r in lines(tmp_path / "audit.jsonl") if r["event_type"] == "tool.completed"
        )
        (line,) = (r for r in lines(tmp_path / "events.log") if r["event_name"] == "tool.completed")
        (span,) = (s for s in lines(tmp_path / "spans.jsonl") if s["name"] == "execute_tool search")
        ids = (record["trace_id"], record["span_id"])
        assert ids == (line["trace_id"], line["span_id"]) == (span["trace_id"], span["span_id"])
        exemplar = f'# {{span_id="{ids[1]}",trace_id="{ids[0]}"}}'
        assert any(
            exemplar in row and row.startswith("infra_agent_tool_call_duration_seconds_bucket")
            for row in metrics.splitlines()
        )

    def test_again_closes_what_was_attached(self, tmp_path: Path) -> None:
        """
        Configuring the same bus again replaces harken's own sinks and leaves the others.
        """
        first, second = tmp_path / "first", tmp_path / "second"
        first.mkdir()
        second.mkdir()
        bus = Bus()
        mine = Captured()
        bus.attach(mine)
        harken.configure(bus, **self.options(first))
        bus.publish(PrCreated(url="one"))
        harken.configure(bus, **self.options(second))
        bus.publish(PrCreated(url="two"))
        bus.close()

        def urls(folder: Path) -> list[str]:
            records = lines(folder / "audit.jsonl")
            return [r["metadata"]["url"] for r in records if r["event_type"] == "pr.created"]

        assert (["one"], ["two"]) == (urls(first), urls(second))
        assert "audit.close" == lines(first / "audit.jsonl")[-1]["event_type"]
        assert ["one", "two"] == [event.url for event in mine.of(PrCreated)]

    def test_content_and_audit_types(self, tmp_path: Path) -> None:
        """
        What is captured and what is audited is up to the settings.
        """
        bus = harken.configure(
            **self.options(
                tmp_path,
                capture_content=["text"],
                audit_types={"llm.completed": True, "pr.*": False},
            )
        )
        bus.publish(TextEmitted(block_index=0, text="hello"))
        bus.publish(LlmCompleted(llm_call_id="c", model="m"))
        bus.publish(PrCreated(url="u"))
        bus.close()

        records = [r for r in lines(tmp_path / "audit.jsonl") if r["trace_id"]]
        assert {"text.emitted", "llm.completed"} == {r["event_type"] for r in records}
        assert ["hello"] == [r["metadata"]["text"] for r in records if "text" in r["metadata"]]
        assert "hello" not in (tmp_path / "events.log").read_text()

    def test_content_in_log_and_traces(self, tmp_path: Path) -> None:
        """
        Logs and spans carry captured content only when they are told to.
        """
        bus = harken.configure(**self.options(tmp_path, log_content=True, trace_content=True))
        with bus.operation(ToolStarted(tool_name="a", arguments={"q": "needle"})):
            pass
        bus.close()

        assert "needle" in (tmp_path / "events.log").read_text()
        assert "needle" in (tmp_path / "spans.jsonl").read_text()

    def test_what_opentelemetry_says_about_content(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        Where no setting says so, OpenTelemetry's variable puts content on spans; a setting wins.
        """
        monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "SPAN_ONLY")
        found = []
        for name, given in (("a", None), ("b", False)):
            options = self.options(tmp_path, trace_content=given)
            bus = harken.configure(**{**options, "traces": f"file:{tmp_path / name}"})
            with bus.operation(ToolStarted(tool_name="a", arguments={"q": "needle"})):
                pass
            bus.close()
            found.append("needle" in (tmp_path / name).read_text())

        assert [True, False] == found

    def test_point_events_and_the_spans_of_others(self, tmp_path: Path) -> None:
        """
        Point events are events of their span, and its id is what other libraries see.
        """
        options = self.options(tmp_path, trace_point_events="span_events", trace_current_span=True)
        bus = harken.configure(**options)
        with bus.operation(ToolStarted(tool_name="a")):
            inside = current_traceparent()
            bus.publish(PrCreated(url="u"))
        bus.close()

        (span,) = lines(tmp_path / "spans.jsonl")
        assert f"00-{span['trace_id']}-{span['span_id']}-01" == inside
        assert ["pr.created"] == [event["name"] for event in span["events"]]

    def test_transient_events_on_request(self, tmp_path: Path) -> None:
        """
        Deltas are logged only when a level is given for them by name.
        """
        bus = harken.configure(**self.options(tmp_path))
        bus.publish(LlmChunk(llm_call_id="c", index=0))
        harken.configure(
            bus, **self.options(tmp_path, log_levels={"llm.chunk": "debug", "tool.*": "off"})
        )
        bus.publish(LlmChunk(llm_call_id="c", index=1))
        with bus.operation(ToolStarted(tool_name="a")):
            pass
        bus.close()

        assert [("llm.chunk", "debug")] == [
            (line["event_name"], line["level"])
            for line in lines(tmp_path / "events.log")
            if not line["event_name"].startswith("harken.audit_")
        ]

    @pytest.mark.parametrize(
        ("levels", "handlers"),
        [
            ({}, 0),
            ({"tool.*": "off", "llm.chunk": "off"}, 0),
            ({"tool.*": "off", "llm.chunk": "debug"}, 1),
        ],
    )
    def test_log_that_can_say_nothing(
        self, tmp_path: Path, levels: dict[str, str], handlers: int
    ) -> None:
        """
        At ``off`` no handler hears the events, unless some of them have a level of their own.
        """
        bus = harken.configure(**self.options(tmp_path, log_level="off", log_levels=levels))
        names = [item.name for item in bus.subscriptions]
        bus.close()

        assert handlers == names.count("LogHandler")
        assert handlers == files(tmp_path).count("events.log")

    def test_log_goes_off_and_on(self, tmp_path: Path) -> None:
        """
        Another call silences the log, and one more lets it speak again.
        """
        bus = Bus()
        for number, level in enumerate(["info", "off", "info"]):
            harken.configure(bus, **self.options(tmp_path, log_level=level))
            bus.publish(PrCreated(url=str(number)))
        bus.close()

        assert ["0", "2"] == [
            line["data"]["url"]
            for line in lines(tmp_path / "events.log")
            if line["event_name"] == "pr.created"
        ]

    def test_sampling(self, tmp_path: Path) -> None:
        """
        A ratio of zero keeps no span and every record.
        """
        bus = harken.configure(**self.options(tmp_path, trace_sample_ratio=0.0))
        with bus.operation(ToolStarted(tool_name="a")):
            pass
        bus.close()

        assert [] == (
            lines(tmp_path / "spans.jsonl") if (tmp_path / "spans.jsonl").exists() else []
        )
        assert [
            "audit.open",
            "tool.started",
            "tool.completed",
            "audit.checkpoint",
            "audit.close",
        ] == [record["event_type"] for record in lines(tmp_path / "audit.jsonl")]

    def test_failure_leaves_what_was_there(self, tmp_path: Path) -> None:
        """
        A second call that fails changes nothing: the bus goes on as it was.
        """
        bus = harken.configure(**self.options(tmp_path, metrics_prometheus_port=0))
        before = dict(bus.health())
        for wrong in (
            {"log_path": str(tmp_path / "none" / "x.log")},
            {"audit_jsonl_path": str(tmp_path)},
            {"traces": f"file:{tmp_path / 'none' / 's.jsonl'}"},
            {"metrics_namespace": "no good"},
            {"audit_types": {"tool.strated": False}},
        ):
            with pytest.raises(harken.HarkenError):
                harken.configure(bus, **self.options(tmp_path, **wrong))
        bus.publish(PrCreated(url="/pull/7"))

        assert before.keys() == bus.health().keys()
        bus.close()
        assert "pr.created" in (tmp_path / "audit.jsonl").read_text()

    def test_logs_as_ecs_said_once(self, tmp_path: Path) -> None:
        """
        The log's format and how often it repeats itself are settings.
        """
        bus = harken.configure(
            **self.options(tmp_path, audit=False, log_format="ecs", log_max_repeats=1)
        )
        for _ in range(3):
            bus.publish(PrCreated(url="u"))
        bus.close()

        assert ["pr created: pr:u", "2 more like this within a minute: pr created: pr:u"] == [
            line["message"] for line in lines(tmp_path / "events.log")
        ]
        assert {"8.17.0"} == {line["ecs.version"] for line in lines(tmp_path / "events.log")}

    def test_metrics_by_other_names(self, tmp_path: Path) -> None:
        """
        The names of the metrics are a setting.
        """
        bus = harken.configure(**self.options(tmp_path, log=False, metrics_names="semconv"))
        with bus.operation(ToolStarted(tool_name="search")):
            pass
        bus.close()

        text = (tmp_path / "metrics.prom").read_text()
        assert "gen_ai_execute_tool_duration_seconds_count{" in text
        assert "infra_agent_tool_call_duration_seconds" not in text

    @pytest.mark.parametrize("name", ["certfile", "keyfile", "client_cafile"])
    def test_files_for_https(self, tmp_path: Path, name: str) -> None:
        """
        Files for HTTPS are handed on: metrics are not served in the clear when they do not fit.
        """
        with pytest.raises((MetricsServerError, SettingsError), match=f"none.pem|{name}"):
            harken.configure(
                **self.options(
                    tmp_path,
                    metrics_prometheus_port=0,
                    **{f"metrics_prometheus_{name}": str(tmp_path / "none.pem")},
                )
            )

    def test_port_is_handed_on(self, tmp_path: Path) -> None:
        """
        A second call may keep the port of the first.
        """
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        bus = harken.configure(**self.options(tmp_path, metrics_prometheus_port=port))
        harken.configure(bus, **self.options(tmp_path, metrics_prometheus_port=port))
        bus.publish(PrCreated(url="/pull/7"))
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            shown = answer.read().decode()
        bus.close()

        assert 'harken_events_published_total{type="pr.created"} 1.0' in shown

    def test_closed_bus(self, tmp_path: Path) -> None:
        """
        A closed bus is refused before anything is opened.
        """
        bus = Bus()
        bus.close()
        with pytest.raises(ClosedBusError, match="make a new one"):
            harken.configure(bus, **self.options(tmp_path))

        assert [] == files(tmp_path)

    def test_words_for_switches(self, tmp_path: Path) -> None:
        """
        `on` and `off` are understood wherever a setting comes from.
        """
        config = tmp_path / "harken.toml"
        config.write_text('audit = "off"\n[audit_types]\n"llm.completed" = "on"\n')

        settings = Settings.load(environ={"HARKEN_CONFIG": str(config)}, metrics="off")

        assert (False, False, {"llm.completed": True}) == (
            settings.audit,
            settings.metrics,
            settings.audit_types,
        )

    @pytest.mark.parametrize("content", [b"log_format = '\xff'", b"\xff\xfe"])
    def test_file_that_is_no_utf_8(self, tmp_path: Path, content: bytes) -> None:
        """
        A file in another encoding is named.
        """
        config = tmp_path / "harken.toml"
        config.write_bytes(content)
        with pytest.raises(SettingsError, match="name a readable TOML file"):
            Settings.load(environ={"HARKEN_CONFIG": str(config)})

    def test_nul(self) -> None:
        """
        A NUL character in a text is refused.
        """
        with pytest.raises(SettingsError, match=r"log_path='a\\x00b' has a NUL character"):
            Settings.load(environ={}, log_path="a\0b")

    def test_home(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        A tilde is the home folder in every path.
        """
        monkeypatch.setenv("HOME", str(tmp_path))
        bus = harken.configure(
            audit_jsonl_path="~/audit.jsonl",
            log_path="~/events.log",
            metrics_file_path="~/metrics.prom",
            traces="file:~/spans.jsonl",
        )
        with bus.operation(ToolStarted(tool_name="a")):
            pass
        bus.close()

        assert ["audit.jsonl", "events.log", "metrics.prom", "spans.jsonl"] == files(tmp_path)

    def test_log_application(
        self, run_python: Callable[..., subprocess.CompletedProcess[str]]
    ) -> None:
        """
        On request the application's own logging is JSON, too.
        """
        code = textwrap.dedent("""
            import logging, harken
            harken.configure(audit=False, metrics=False, log=False, log_application=True)
            with harken.scope(run_id="r-1"):
                logging.getLogger("app").warning("disk at %d %%", 91)
        """)
        done = run_python(code)

        line = json.loads((done.stderr or done.stdout).splitlines()[-1])
        assert ("disk at 91 %", "warning", "r-1") == (
            line["message"],
            line["level"],
            line["run_id"],
        )

    @pytest.mark.parametrize(
        ("changes", "error", "message"),
        [
            ({"audit_jsonl_path": "{folder}"}, AuditPathError, "{folder}"),
            ({"log_levels": {"llm.chnuk": "info"}}, UnknownEventError, "did you mean llm.chunk"),
            ({"log_format": "xml"}, SettingsError, "log_format"),
        ],
    )
    def test_nothing_is_half_done(
        self, tmp_path: Path, changes: dict[str, Any], error: type[HarkenError], message: str
    ) -> None:
        """
        What cannot be built is one error, and nothing is attached.
        """
        bus = Bus()
        changes = {
            name: value.format(folder=tmp_path) if isinstance(value, str) else value
            for name, value in changes.items()
        }

        with pytest.raises(error) as caught:
            harken.configure(bus, **self.options(tmp_path, **changes))
        assert message.format(folder=tmp_path) in str(caught.value)
        assert {} == dict(bus.health())

    def test_port_in_use(self, tmp_path: Path) -> None:
        """
        A port that is taken is named, and the audit log that was opened is closed again.
        """
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(MetricsServerError, match=str(port)):
                harken.configure(**self.options(tmp_path, metrics_prometheus_port=port))

        assert ["audit.open", "audit.close"] == [
            record["event_type"] for record in lines(tmp_path / "audit.jsonl")
        ]

    def test_otlp_without_the_extra(
        self, run_python: Callable[..., subprocess.CompletedProcess[str]]
    ) -> None:
        """
        Traces to a collector need an extra, and the error names it.
        """
        code = textwrap.dedent("""
            import sys
            sys.modules["opentelemetry.exporter.otlp.proto.http.trace_exporter"] = None
            sys.modules["opentelemetry.exporter.otlp.proto.grpc.trace_exporter"] = None
            import harken
            try:
                harken.configure(audit=False, metrics=False, log=False, traces="otlp")
            except harken.HarkenError as error:
                print(type(error).__name__, error)
        """)
        done = run_python(code)

        assert done.stdout.startswith("TraceExporterError")
        assert "harken[otlp]" in done.stdout

    def test_otlp_asked_of_all_programs(
        self, run_python: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
    ) -> None:
        """
        Without the extra, a collector that only the environment names costs one loud line.
        """
        code = textwrap.dedent("""
            import sys
            sys.modules["opentelemetry.exporter.otlp.proto.http.trace_exporter"] = None
            import harken
            bus = harken.configure(audit_jsonl_path="audit.jsonl", log_path="events.log")
            print(*bus.health())
        """)
        done = run_python(code, env={"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"})

        assert ["AuditLog", "PrometheusInstrumenter", "LogHandler"] == done.stdout.split()
        (line,) = done.stderr.splitlines()
        assert line.startswith("there are no traces: spans cannot be sent by OTLP: ")
        assert line.endswith("install harken[otlp]")


class TestSigterm:
    CODE = textwrap.dedent("""
        import os, signal, sys, time, harken
        from harken.catalog import RunStarted, ToolStarted
        bus = harken.configure(
            audit_jsonl_path=sys.argv[1], metrics=False, log=False, close_on_sigterm=True
        )
        with bus.operation(RunStarted()):
            bus.operation(ToolStarted(tool_name="slow")).start()
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
    """)

    def test_nothing_is_lost(
        self, tmp_path: Path, run_python: Callable[..., subprocess.CompletedProcess[str]]
    ) -> None:
        """
        SIGTERM ends the process as an exit does: every operation has its end.
        """
        path = tmp_path / "audit.jsonl"
        run_python(self.CODE, str(path), returncode=128 + signal.SIGTERM)

        ended = [(r["event_type"], r["outcome"]) for r in lines(path) if "started_event_id" in r]
        assert [("run.cancelled", "cancelled"), ("tool.failed", "cancelled")] == ended
        assert "audit.close" == lines(path)[-1]["event_type"]

    def test_somebody_elses_handler_stays(
        self, tmp_path: Path, run_python: Callable[..., subprocess.CompletedProcess[str]]
    ) -> None:
        """
        A handler that is there already is not replaced.
        """
        code = "import signal; signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\n" + self.CODE
        run_python("import sys\n" + code, str(tmp_path / "audit.jsonl"), returncode=7)

    def test_other_threads_cannot(self, caplog: pytest.LogCaptureFixture) -> None:
        """
        Only the main thread sets signal handlers; elsewhere it is said that there is none.
        """
        import threading

        def configure() -> None:
            harken.configure(audit=False, metrics=False, log=False, close_on_sigterm=True)

        with caplog.at_level(logging.WARNING):
            thread = threading.Thread(target=configure)
            thread.start()
            thread.join()

        assert "close_on_sigterm has no effect outside of the main thread" in caplog.text
        assert signal.SIG_DFL == signal.getsignal(signal.SIGTERM)


assert os.name == "posix"
assert sys.version_info >= (3, 11)


class TestRedaction:
    def run(self, folder: Path, **settings: Any) -> tuple[Bus, str]:
        bus = harken.configure(
            audit_jsonl_path=folder / "audit.jsonl", log=False, metrics=False, **settings
        )
        arguments = {"badge": "b-1", "token": "t-1", "password": "changeme", "note": "T-12345"}
        bus.publish(ToolStarted(tool_name="door", arguments=arguments))
        bus.flush()
        (record,) = (r for r in lines(folder / "audit.jsonl") if r["event_type"] == "tool.started")
        return bus, json.dumps([record["metadata"]["arguments"], record.get("redacted")])

    def test_rules(self, tmp_path: Path) -> None:
        """
        Names, patterns and what is allowed change what is taken out of events.
        """
        bus, record = self.run(
            tmp_path,
            redaction_names=["Badge"],
            redaction_patterns={"ticket": r"T-\d{4,6}"},
            redaction_allow_names=["token"],
            redaction_allow_values=["changeme"],
        )
        bus.close()

        expected = {
            "badge": "[REDACTED:key]",
            "token": "t-1",
            "password": "changeme",
            "note": "[REDACTED:ticket]",
        }
        assert json.dumps([expected, {"key": 1, "ticket": 1}]) == record

    def test_hash_key(self, tmp_path: Path) -> None:
        """
        With a key in a file, the same secret gets the same mark in every process.
        """
        key = tmp_path / "key"
        key.write_bytes(b"  0123456789abcdef0123456789abcdef\n")
        marks = set()
        for name in ("one", "two"):
            folder = tmp_path / name
            bus, record = self.run(folder, redaction_hash_key_path=key)
            bus.close()
            marks.add(json.loads(record)[0]["password"])

        digest = hmac.digest(b"0123456789abcdef0123456789abcdef", b"changeme", "sha256")
        assert {f"[HMAC:{digest.hex()[:12]}]"} == marks

    def test_the_bus_keeps_its_own(self, tmp_path: Path) -> None:
        """
        A redactor that the bus was made with stays, when the settings say nothing of redaction.
        """
        bus = Bus(redaction=Redactor(keys=["badge"]))
        heard = bus.attach(Captured())
        harken.configure(bus, audit=False, log=False, metrics=False)
        bus.publish(ToolStarted(tool_name="door", arguments={"badge": "b-1"}))
        bus.close()

        sink = heard.sink
        assert isinstance(sink, Captured)
        assert {"badge": "[REDACTED:key]"} == sink.envelopes[0].data()["arguments"]

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (None, "No such file or directory; name a readable file that holds the key"),
            (b"", "hash_key has 0 bytes, 0 of them different; use at least 16 random ones"),
            (b"too short\n", "hash_key has 9 bytes"),
            (b"a" * 64, "hash_key has 64 bytes, 1 of them different"),
        ],
    )
    def test_bad_key(self, tmp_path: Path, content: bytes | None, message: str) -> None:
        """
        A key that cannot be used is named with its path, and nothing is changed.
        """
        path = tmp_path / "key"
        if content is not None:
            path.write_bytes(content)
        bus = Bus()
        with pytest.raises(SettingsError) as caught:
            harken.configure(
                bus, audit_jsonl_path=tmp_path / "audit.jsonl", redaction_hash_key_path=path
            )

        assert f"redaction_hash_key_path={path}: {message}" in str(caught.value)
        assert () == bus.subscriptions
        assert not (tmp_path / "audit.jsonl").exists()

    @pytest.mark.parametrize("kind", ["folder", "fifo", "empty"])
    def test_no_file(self, tmp_path: Path, kind: str) -> None:
        """
        What is no regular file is refused without waiting for it.
        """
        path = tmp_path / "key"
        if kind == "folder":
            path.mkdir()
        elif kind == "fifo":
            os.mkfifo(path)
        with pytest.raises(SettingsError, match="is no regular file"):
            harken.configure(redaction_hash_key_path="" if kind == "empty" else path)

    def test_application(
        self, tmp_path: Path, run_python: Callable[..., subprocess.CompletedProcess[str]]
    ) -> None:
        """
        The application's own log calls are redacted by the same rules.
        """
        code = textwrap.dedent("""
            import logging, harken
            harken.configure(audit=False, metrics=False, log_application=True)
            logging.getLogger("app").warning("open with T-12345, badge=%s", "b-1")
        """)
        done = run_python(code, env={"HARKEN_REDACTION_PATTERNS": r"ticket=T-\d+"})

        assert "open with [REDACTED:ticket], badge=b-1" in done.stderr
        assert "T-12345" not in done.stderr
