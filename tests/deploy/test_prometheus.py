"""
What `deploy` has for Prometheus, with the real one and a demo at work.
"""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.deploy.conftest import DEPLOY, Find, Prometheus
from tests.servers import wait_for

pytestmark = pytest.mark.once

DASHBOARD = json.loads((DEPLOY / "grafana/dashboards/harken.json").read_text(encoding="utf-8"))
VARIABLES = {"$__rate_interval": "1m", "$__range": "1h", "$agent": ".*"}
QUERIES = {
    f"{panel['title']} {target['refId']}": target["expr"]
    for panel in DASHBOARD["panels"]
    for target in panel.get("targets", ())
}
RULES = sorted((DEPLOY / "prometheus/rules").glob("*.yml"))


def asked(expr: str) -> str:
    """
    Return *expr* as Grafana sends it, with its variables filled in.
    """
    for name, value in VARIABLES.items():
        expr = expr.replace(name, value)
    assert "$" not in expr
    return expr


def run(*argv: str, text: str | None = None) -> tuple[int, str]:
    done = subprocess.run(
        argv,
        input=text,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        check=False,
    )
    return done.returncode, done.stdout


def read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as answer:
        text: str = answer.read().decode()
        return text


def verified(textfile: Path, log: Path, *options: str) -> int:
    """
    Have the shipped program verify *log* and write what it found; return its exit code.
    """
    program = str(DEPLOY / "prometheus/verify_metrics.py")
    return run(sys.executable, program, str(textfile), str(log), *options)[0]


class TestFiles:
    """
    Prometheus' own tool has nothing to say against them.
    """

    def test_rules(self, require_server: Find) -> None:
        """
        The rules are well-formed.
        """
        code, said = run(require_server("promtool"), "check", "rules", *map(str, RULES))

        assert (0, 2) == (code, said.count("SUCCESS")), said

    @pytest.mark.parametrize(
        "tests", sorted((DEPLOY / "prometheus/tests").glob("*.yml")), ids=lambda path: path.stem
    )
    def test_unit_tests_of_the_rules(self, require_server: Find, tests: Path) -> None:
        """
        The rules do what their unit tests say.
        """
        code, said = run(require_server("promtool"), "test", "rules", str(tests))

        assert (0, 1) == (code, said.count("SUCCESS")), said

    def test_every_rule_has_a_unit_test(self) -> None:
        """
        No alert and no recording rule is left untested.
        """
        names = re.compile(r"- (?:alert|record): (\S+)")
        rules = {name for path in RULES for name in names.findall(path.read_text())}
        tests = "".join(path.read_text() for path in (DEPLOY / "prometheus/tests").glob("*.yml"))

        assert len(rules) > 25
        assert set() == {name for name in rules if f": {name}" not in tests}

    def test_configuration(self, require_server: Find) -> None:
        """
        The configuration is well-formed, and finds its rules.
        """
        config = str(DEPLOY / "prometheus/prometheus.yml")

        code, said = run(require_server("promtool"), "check", "config", config)

        assert 0 == code, said
        assert "2 rule files found" in said

    def test_metrics_of_a_demo(self, require_server: Find, demo: tuple[Path, str]) -> None:
        """
        Prometheus' linter has nothing to say about the metrics of an agent at work.
        """
        wait_for(lambda: "infra_agent_llm_cost_usd_total{" in read(demo[1]), "the demo to begin")

        assert (0, "") == run(require_server("promtool"), "check", "metrics", text=read(demo[1]))


@pytest.fixture(scope="module")
def scraped(
    prometheus: Prometheus, demo: tuple[Path, str], node_exporter: tuple[Path, str]
) -> None:
    """
    Have everything there that a dashboard asks for.
    """
    verified(node_exporter[0] / "harken_verify.prom", demo[0] / "audit.jsonl")
    wait_for(
        lambda: prometheus.number('sum_over_time(up{job="agents"}[1m])') > 5,
        "Prometheus to scrape the demo",
    )


@pytest.mark.usefixtures("scraped")
class TestScrape:
    """
    A demo at work is scraped, as the shipped configuration says.
    """

    @pytest.mark.parametrize("name", QUERIES)
    def test_every_panel_shows_something(self, prometheus: Prometheus, name: str) -> None:
        """
        Each query of the dashboard returns data while an agent is at work.
        """
        expr = asked(QUERIES[name])

        wait_for(lambda: prometheus.query(expr), f"data for {expr}")

    def test_shows_what_the_demo_does(self, prometheus: Prometheus) -> None:
        """
        What panels show is true: one run in three succeeds, and one tool's calls all fail in
        one way or the other.
        """
        rate = asked(QUERIES["Success rate A"])
        errors = asked(QUERIES["Errors by tool A"])

        wait_for(lambda: 0.2 < prometheus.number(rate) < 0.5, "one success in three")
        wait_for(
            lambda: (
                {"open_pull_request", "read_file", "run_command"}
                == {
                    one["metric"]["tool"]
                    for one in prometheus.query(errors)
                    if float(one["value"][1]) > 0
                }
            ),
            "the tools that fail in the demo",
        )

    def test_variable_of_agents(self, prometheus: Prometheus) -> None:
        """
        The dashboard's list of agents has the demo's.
        """
        (query,) = (
            variable["query"]["query"]
            for variable in DASHBOARD["templating"]["list"]
            if variable["name"] == "agent"
        )
        metric, label = query.removeprefix("label_values(").removesuffix(")").split(", ")

        values = prometheus.get(f"label/{label}/values", **{"match[]": metric})

        assert ["bookkeeper"] == values

    def test_exemplars_name_calls_of_the_audit_log(
        self, prometheus: Prometheus, demo: tuple[Path, str]
    ) -> None:
        """
        Prometheus gives back exemplars, and each leads to the record of a tool call.
        """
        found: list[dict[str, Any]] = []

        def look() -> object:
            now = time.time()
            found[:] = prometheus.get(
                "query_exemplars",
                query="infra_agent_tool_call_duration_seconds_bucket",
                start=str(now - 600),
                end=str(now + 60),
            )
            return found

        wait_for(look, "exemplars")
        lines = (demo[0] / "audit.jsonl").read_bytes().splitlines()
        records = [json.loads(line) for line in lines]
        calls = {
            (record["trace_id"], record["span_id"], record["resource"])
            for record in records
            if record["event_type"].startswith("tool.")
        }

        assert {
            (
                exemplar["labels"]["trace_id"],
                exemplar["labels"]["span_id"],
                f"tool:{series['seriesLabels']['tool']}",
            )
            for series in found
            for exemplar in series["exemplars"]
        } <= calls

    def test_rules_work(self, prometheus: Prometheus) -> None:
        """
        Every rule can be evaluated, every recording rule has data, and nobody is alarmed by a
        demo that works as it should.
        """

        def rules() -> list[dict[str, Any]]:
            groups = prometheus.get("rules")["groups"]
            return [rule for group in groups for rule in group["rules"]]

        wait_for(lambda: {"ok"} == {rule["health"] for rule in rules()}, "the rules")
        recorded = [rule["name"] for rule in rules() if rule["type"] == "recording"]
        for name in recorded:
            wait_for(lambda name=name: prometheus.query(name), f"data for {name}")

        alarmed = [rule["name"] for rule in rules() if rule.get("state") == "firing"]

        assert 11 == len(recorded)
        assert [] == alarmed

    def test_verdict_of_harken_verify(self, prometheus: Prometheus, demo: tuple[Path, str]) -> None:
        """
        The verdict on the audit log gets from the command to Prometheus.
        """
        expr = 'harken_verify_verdict{part="chain", verdict="ok"} == 1'
        wait_for(lambda: prometheus.query(expr), "the verdict")

        assert [str(demo[0] / "audit.jsonl")] == [
            one["metric"]["log"] for one in prometheus.query(expr)
        ]

    def test_stalled_clients(self, prometheus: Prometheus, demo: tuple[Path, str]) -> None:
        """
        A hundred clients that begin to speak TLS and then say nothing more delay no scrape.
        """
        port = int(demo[1].rpartition(":")[2].partition("/")[0])
        scrapes = 'sum_over_time(up{job="agents"}[1h])'
        with ExitStack() as stack:
            for _ in range(100):
                client = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
                client.sendall(b"\x16\x03\x01\x02\x00")
            before = prometheus.number(scrapes)

            wait_for(lambda: prometheus.number(scrapes) >= before + 4, "scrapes")


class TestTextFile:
    """
    What goes through a file.
    """

    def test_exported_metrics(self, node_exporter: tuple[Path, str], tmp_path: Path) -> None:
        """
        node-exporter reads the file that harken writes, without an error.
        """
        folder, url = node_exporter
        run(sys.executable, "-m", "harken", "demo", "--out", str(tmp_path / "out"))
        shutil.copy(tmp_path / "out" / "metrics.prom", folder / "agent.prom")

        shown = read(url)
        (folder / "agent.prom").unlink()

        assert "\nnode_textfile_scrape_error 0\n" in shown
        assert re.search(r'infra_agent_tool_calls_total\{.*tool="search"\} 1\n', shown)

    @pytest.mark.parametrize(
        ("harm", "code", "verdict"),
        [("none", 0, "ok"), ("alter", 1, "tampered"), ("remove", 2, "undecided")],
    )
    def test_verify(
        self,
        node_exporter: tuple[Path, str],
        tmp_path: Path,
        require_server: Find,
        harm: str,
        code: int,
        verdict: str,
    ) -> None:
        """
        What is wrong with an audit log is shown by node-exporter and told by the exit code.
        """
        folder, url = node_exporter
        out = tmp_path / "out"
        run(sys.executable, "-m", "harken", "demo", "--runs", "1", "--out", str(out))
        log = out / "audit.jsonl"
        if harm == "alter":
            log.write_bytes(log.read_bytes().replace(b"open_pull_request", b"open_pull_REQUEST", 1))
        elif harm == "remove":
            log.unlink()
        textfile = folder / "harken_verify_once.prom"

        exit_code = verified(textfile, log, "--anchor", str(out / "events.log"))

        linted = run(require_server("promtool"), "check", "metrics", text=textfile.read_text())
        shown = read(url)
        textfile.unlink()
        assert (code, (0, "")) == (exit_code, linted)
        assert "\nnode_textfile_scrape_error 0\n" in shown
        assert [verdict] == re.findall(
            rf'harken_verify_verdict{{log="{re.escape(str(log))}",part="whole",verdict="(\w+)"}} 1\n',
            shown,
        )

    def test_verify_without_a_place_for_the_verdict(self, tmp_path: Path) -> None:
        """
        A verdict that cannot be written is not mistaken for a log that was changed.
        """
        run(sys.executable, "-m", "harken", "demo", "--runs", "1", "--out", str(tmp_path))

        code = verified(
            tmp_path / "missing" / "x.prom",
            tmp_path / "audit.jsonl",
            *("--anchor", str(tmp_path / "events.log")),
        )

        assert 2 == code
