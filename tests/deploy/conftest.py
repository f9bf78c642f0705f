"""
The servers of the stack that this machine can run, on the loopback, with what `deploy` has for
them.
"""

from __future__ import annotations

import json
import sys
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.servers import free_port, running

DEPLOY = Path(__file__).parents[2] / "deploy"

Find = Callable[[str], str]
JSON = Any


class Prometheus:
    """
    A Prometheus that runs, asked over its HTTP API.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, path: str, **parameters: str) -> JSON:
        """
        Return the data that *path* of the API answers with.
        """
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=30) as answer:
            return json.load(answer)["data"]

    def query(self, expr: str) -> list[JSON]:
        """
        Return what *expr* is now; numbers that are not finite are left out.
        """
        result: list[JSON] = self.get("query", query=expr)["result"]
        return [one for one in result if one["value"][1] not in {"NaN", "+Inf", "-Inf"}]

    def number(self, expr: str) -> float:
        """
        Return the one number that *expr* is now; 0 where there is none.
        """
        result = self.query(expr)
        return float(result[0]["value"][1]) if result else 0.0


def answers(url: str) -> bool:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return bool(answer.status == 200)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """
    A demo at work: the folder of its files, and the address of its metrics.
    """
    folder = tmp_path_factory.mktemp("demo")
    log, port = folder / "demo.txt", free_port()
    argv = [sys.executable, "-m", "harken", "demo", "--out", str(folder / "out")]
    url = f"http://127.0.0.1:{port}/metrics"
    with running([*argv, "--serve", str(port), "--every", "0.5"], log, lambda: answers(url)):
        yield folder / "out", url


@pytest.fixture(scope="module")
def node_exporter(
    tmp_path_factory: pytest.TempPathFactory, require_server: Find
) -> Iterator[tuple[Path, str]]:
    """
    A node-exporter: the folder whose text files it reads, and the address of its metrics.
    """
    command = require_server("prometheus-node-exporter")
    folder, port = tmp_path_factory.mktemp("textfile"), free_port()
    url = f"http://127.0.0.1:{port}/metrics"
    argv = [
        command,
        f"--web.listen-address=127.0.0.1:{port}",
        "--collector.disable-defaults",
        "--collector.textfile",
        f"--collector.textfile.directory={folder}",
    ]
    log = tmp_path_factory.mktemp("node-exporter") / "log.txt"
    with running(argv, log, lambda: answers(url)):
        yield folder, url


@pytest.fixture(scope="module")
def prometheus(
    tmp_path_factory: pytest.TempPathFactory,
    require_server: Find,
    demo: tuple[Path, str],
    node_exporter: tuple[Path, str],
) -> Iterator[Prometheus]:
    """
    A Prometheus with the configuration and the rules of `deploy`, only faster and on other ports.
    """
    command = require_server("prometheus")
    folder, port = tmp_path_factory.mktemp("prometheus"), free_port()
    config = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text(encoding="utf-8"))
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(DEPLOY / "prometheus" / name) for name in config["rule_files"]]
    targets = {"agents": demo[1], "node": node_exporter[1]}
    config["scrape_configs"] = [
        job for job in config["scrape_configs"] if job["job_name"] in targets
    ]
    for job in config["scrape_configs"]:
        url = urllib.parse.urlsplit(targets[job["job_name"]])
        job["static_configs"] = [{"targets": [url.netloc]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    url = f"http://127.0.0.1:{port}"
    argv = [
        command,
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--enable-feature=exemplar-storage",
    ]
    with running(argv, folder / "log.txt", lambda: answers(f"{url}/-/ready")):
        yield Prometheus(url)
