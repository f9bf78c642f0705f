"""
The configuration of what no test can start here: that its parts fit each other, and what harken
writes.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"


def load(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((DEPLOY / name).read_text(encoding="utf-8"))
    return content


COMPOSE = load("compose.yml")
COLLECTOR = load("collector/config.yml")
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


def words(value: object) -> Iterator[str]:
    """
    Yield every text in a configuration.
    """
    if isinstance(value, dict):
        for one in value.values():
            yield from words(one)
    elif isinstance(value, list):
        for one in value:
            yield from words(one)
    elif isinstance(value, str):
        yield value


class TestCompose:
    def test_mounts_what_is_there(self) -> None:
        """
        Every file and folder that is mounted exists, and every volume is declared.
        """
        sources = {
            volume.partition(":")[0] for one in SERVICES.values() for volume in one["volumes"]
        }
        files = {source for source in sources if source.startswith(".")}

        assert [] == [source for source in files if not (DEPLOY / source).exists()]
        assert set(COMPOSE["volumes"]) == sources - files
        assert len(files) == 7

    def test_is_open_to_this_machine_only(self) -> None:
        """
        No port is published to the network.
        """
        ports = [port for one in SERVICES.values() for port in one.get("ports", ())]

        assert len(ports) == 4
        assert [] == [port for port in ports if not port.startswith("127.0.0.1:")]

    def test_names_versions(self) -> None:
        """
        What is started tomorrow is what was started today.
        """
        images = [one["image"] for one in SERVICES.values() if "build" not in one]

        assert len(images) == 6
        assert [] == [image for image in images if not re.search(r":v?\d+\.\d+\.\d+$", image)]

    @pytest.mark.parametrize(
        "name",
        [
            "collector/config.yml",
            "compose.yml",
            "grafana/provisioning/datasources/harken.yml",
            "prometheus/prometheus.yml",
        ],
    )
    def test_hosts_are_services(self, name: str) -> None:
        """
        A host that one part of the stack looks for is another part of it.
        """
        hosts = {
            host
            for text in words(load(name))
            for host in re.findall(r"(?:^|//)([a-z][a-z-]*):\d{4,5}\b", text)
        }

        assert hosts
        assert set() == hosts - set(SERVICES)

    def test_starts_with_what_it_needs(self) -> None:
        """
        The agent is scraped where it serves, and sends its spans where they are received.
        """
        agent = SERVICES["agent"]
        targets = {
            job["job_name"]: job["static_configs"][0]["targets"]
            for job in load("prometheus/prometheus.yml")["scrape_configs"]
        }
        otlp = COLLECTOR["receivers"]["otlp"]["protocols"]["http"]["endpoint"]

        assert "service:prometheus" == agent["network_mode"]
        assert [f"127.0.0.1:{port_of(agent['command'])}"] == targets["agents"]
        assert agent["environment"]["OTEL_EXPORTER_OTLP_ENDPOINT"].endswith(otlp[-5:])
        assert "--enable-feature=exemplar-storage" in SERVICES["prometheus"]["command"]

    def test_options_of_the_demo_exist(self) -> None:
        """
        The agent is started with options that it has.
        """
        options = re.findall(r"--\w+", SERVICES["agent"]["command"])

        shown = subprocess.run(
            [sys.executable, "-m", "harken", "demo", "--help"],
            stdout=subprocess.PIPE,
            encoding="utf-8",
            check=True,
        ).stdout

        assert 4 == len(options)
        assert [] == [option for option in options if f"  {option} " not in shown]


def port_of(command: str) -> str:
    return command.partition("--serve ")[2].split()[0]


class TestGrafana:
    def test_data_sources_lead_to_each_other(self) -> None:
        """
        Metrics, traces and logs are joined by data sources that exist.
        """
        sources = load("grafana/provisioning/datasources/harken.yml")["datasources"]
        uids = {source["uid"] for source in sources}

        referred = set(re.findall(r'"datasourceUid": "(\w+)"', json.dumps(sources)))

        assert {"prometheus", "tempo", "loki"} == uids
        assert {"tempo", "loki"} == referred

    def test_dashboards_are_where_they_are_looked_for(self) -> None:
        """
        The folder that Grafana looks into is the one that is mounted.
        """
        (provider,) = load("grafana/provisioning/dashboards/harken.yml")["providers"]

        assert (
            f"./grafana/dashboards:{provider['options']['path']}:ro"
            in (SERVICES["grafana"]["volumes"])
        )


class TestCollector:
    def test_pipelines_have_their_parts(self) -> None:
        """
        What a pipeline is made of is configured, and what is configured is used.
        """
        service = COLLECTOR["service"]
        used: dict[str, set[str]] = {
            kind: {name for one in service["pipelines"].values() for name in one[kind]}
            for kind in ("receivers", "processors", "exporters")
        }

        assert {kind: set(COLLECTOR[kind]) for kind in used} == used
        assert set(COLLECTOR["extensions"]) == set(service["extensions"])

    @pytest.mark.once
    def test_fields_are_those_of_the_files(self, tmp_path: Path) -> None:
        """
        What is read from a line, moved or removed is in every line that harken writes.
        """
        argv = [sys.executable, "-m", "harken", "demo", "--out", str(tmp_path)]
        subprocess.run(argv, stdout=subprocess.DEVNULL, check=True)

        for receiver, file in (
            ("file_log/events", "events.log"),
            ("file_log/audit", "audit.jsonl"),
        ):
            (path,) = COLLECTOR["receivers"][receiver]["include"]
            fields = set(
                re.findall(
                    r'attributes(?:\.audit)?(?:\.(\w+)|\["([\w.]+)"\])',
                    "\n".join(words(COLLECTOR["receivers"][receiver]["operators"])),
                )
            )
            names = {"".join(field) for field in fields} - {"audit"}
            lines = [json.loads(line) for line in (tmp_path / file).read_bytes().splitlines()]

            assert path.endswith(f"/{file}")
            assert len(names) > 5
            assert [] == [line for line in lines if not names <= set(line)]

    def test_timestamps_can_be_read(self) -> None:
        """
        The layout, in which Go spells its reference time, is that of harken's timestamps.
        """
        layouts = {
            operator["timestamp"]["layout"]
            for name in ("file_log/events", "file_log/audit")
            for operator in COLLECTOR["receivers"][name]["operators"]
            if "timestamp" in operator
        }

        assert {"2006-01-02T15:04:05.999999Z07:00"} == layouts
