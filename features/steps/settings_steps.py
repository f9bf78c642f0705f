"""
Settings, and the agents that are made from them.
"""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path
from typing import Any

from agent import open_pull_request
from behave import given, then, when
from outputs import AUDIT, LOG, METRICS, SPANS
from scene import Scene, bus_of, compare, noting, use

import harken
from harken import Bus, Settings
from harken.catalog import PrCreated
from harken.sinks.audit import AuditLog
from harken.sinks.prometheus import PrometheusInstrumenter

OFF: dict[str, Any] = {"audit": False, "metrics": False, "log": False, "traces": "off"}
WITH_AUDIT = {"audit": True, "audit_jsonl_path": AUDIT}
WITH_METRICS = {"metrics": True, "metrics_file_path": METRICS}
WITH_LOG = {"log": True, "log_path": LOG}
WITH_TRACES = {"traces": f"file:{SPANS}"}
WITH_ALL = {**WITH_AUDIT, **WITH_METRICS, **WITH_LOG, **WITH_TRACES}
ALL_CONTENT = {
    "capture_content": ["arguments", "result", "text", "thinking", "messages"],
    "log_content": True,
    "trace_content": True,
}


def configure(context: Scene, *wanted: dict[str, Any]) -> Bus:
    options = dict(OFF)
    for some in wanted:
        options |= some
    return use(context, harken.configure(**options))


@given('the setting {name:w} is "{value}"')
def setting_is(context: Scene, name: str, value: str) -> None:
    os.environ[name] = value


@given('{name:Variable} is "{value}"')
def variable_is(context: Scene, name: str, value: str) -> None:
    os.environ[name] = value


@given("an agent with an audit log")
def agent_with_audit_log(context: Scene) -> None:
    configure(context, WITH_AUDIT)


@given("an agent with an audit log that has opened {count:d} pull requests")
@given("the audit log of an agent that opened {count:d} pull request")
@given("the audit log of an agent that opened {count:d} pull requests")
def audit_log_of_an_agent(context: Scene, count: int) -> None:
    bus = configure(context, WITH_AUDIT)
    for number in range(1, count + 1):
        open_pull_request(bus, number)


@given('an agent "{service}" with an audit log at its default path')
def agent_with_default_audit_log(context: Scene, service: str) -> None:
    configure(context, {"audit": True, "service_name": service})


@given("two agents with the same audit log")
def two_agents(context: Scene) -> None:
    configure(context, WITH_AUDIT)
    context.other = Bus()
    context.add_cleanup(context.other.close)
    context.other.attach(AuditLog(AUDIT))


@given("an agent with a log")
@given("an agent with a JSON log")
def agent_with_log(context: Scene) -> None:
    configure(context, WITH_LOG)


@given("an agent with metrics in a file")
def agent_with_metrics_file(context: Scene) -> None:
    configure(context, WITH_METRICS)


@given("an agent with metrics in a file and a broken sink")
def agent_with_metrics_and_broken_sink(context: Scene) -> None:
    class Broken:
        name = "broken"
        delivery = "inline"

        def write(self, batch: object, /) -> None:
            raise OSError("no disk")

    configure(context, WITH_METRICS).attach(Broken(), PrCreated)


@given("an agent with metrics of at most {count:d} series each")
def agent_with_bounded_metrics(context: Scene, count: int) -> None:
    bus_of(context).attach(PrometheusInstrumenter(file_path=METRICS, max_series=count))


@given("an agent with metrics over HTTP")
def agent_with_metrics_server(context: Scene) -> None:
    configure(context, {"metrics": True, "metrics_prometheus_port": 0})


@given("another agent in the same process, with metrics over HTTP of its own")
def another_agent_with_metrics_server(context: Scene) -> None:
    context.other = harken.configure(**OFF | {"metrics": True, "metrics_prometheus_port": 0})
    context.add_cleanup(context.other.close)


@given("an agent with traces in a file")
def agent_with_traces(context: Scene) -> None:
    configure(context, WITH_TRACES)


@given("an agent with an audit log and traces in a file")
def agent_with_audit_log_and_traces(context: Scene) -> None:
    configure(context, WITH_AUDIT, WITH_TRACES)


@given("an agent with all four outputs")
def agent_with_all(context: Scene) -> None:
    configure(context, WITH_ALL)


@given("an agent with all four outputs and all content captured")
def agent_with_all_and_content(context: Scene) -> None:
    configure(context, WITH_ALL, ALL_CONTENT)


@given("an agent with its outputs in files")
def agent_with_outputs_in_files(context: Scene) -> None:
    paths = {"audit_jsonl_path": AUDIT, "metrics_file_path": METRICS, "log_path": LOG}
    os.environ.setdefault("HARKEN_TRACES", f"file:{SPANS}")
    use(context, harken.configure(**paths))


@given("the agent was set up once more")
def set_up_once_more(context: Scene) -> None:
    harken.configure(context.bus, **OFF | WITH_AUDIT)


@given("an agent that is configured by its settings alone")
def agent_by_settings_alone(context: Scene) -> None:
    os.environ |= {
        "HARKEN_AUDIT_JSONL_PATH": AUDIT,
        "HARKEN_LOG": "off",
        "HARKEN_METRICS": "off",
    }
    use(context, harken.configure())


@given("a port that another program serves")
def port_in_use(context: Scene) -> None:
    server = socket.create_server(("127.0.0.1", 0))
    context.add_cleanup(server.close)
    context.port = server.getsockname()[1]


@given('a file "{name}" that sets service_name to "{service}" and log_format to "{log_format}"')
def file_that_sets(context: Scene, name: str, service: str, log_format: str) -> None:
    Path(name).write_text(f'service_name = "{service}"\nlog_format = "{log_format}"\n')


@when('an agent with an audit log at "{path}" is configured')
def configure_audit_log_at(context: Scene, path: str) -> None:
    with noting(context):
        configure(context, {"audit": True, "audit_jsonl_path": path})


@when("an agent with metrics over HTTP on that port is configured")
def configure_metrics_on_that_port(context: Scene) -> None:
    with noting(context):
        configure(context, {"metrics": True, "metrics_prometheus_port": context.port})


@when("another agent with the same audit log opens a pull request")
def another_agent_opens(context: Scene) -> None:
    open_pull_request(configure(context, WITH_AUDIT))


@when("they open {count:d} pull requests each, in turn")
def open_in_turn(context: Scene, count: int) -> None:
    for number in range(count):
        open_pull_request(context.bus, number)
        open_pull_request(context.other, number)


@when('the settings are loaded with log_level "{level}"')
def settings_are_loaded(context: Scene, level: str) -> None:
    context.settings = Settings.load(log_level=level)


@then("the settings say")
def settings_say(context: Scene) -> None:
    compare(context.table, lambda name: getattr(context.settings, name))


@then('the audit log is at "{path}" in the owner\'s home')
def audit_log_is_at(context: Scene, path: str) -> None:
    context.audit = context.folder / "home" / path
    assert context.audit.is_file()


@then("nobody but its owner may read it, or look into its folder")
def only_its_owner(context: Scene) -> None:
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (context.audit, context.audit.parent)]
    assert [0o600, 0o700] == modes, modes


@then('all outputs are written but "{name}"')
def all_are_written_but(context: Scene, name: str) -> None:
    context.bus.close()
    expected = {AUDIT, METRICS, LOG, SPANS} - {name}
    assert expected == {path.name for path in context.folder.iterdir()}


@then("there are {audit:Files} and {traces:Files}")
def there_are(context: Scene, audit: str | None, traces: str | None) -> None:
    expected = sorted(name for name in (audit, traces) if name)
    found = sorted(path.name for path in context.folder.iterdir())
    assert expected == found, found
