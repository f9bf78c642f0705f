"""
The Prometheus sink inside of a web application's own server.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest
import uvicorn
from prometheus_client import make_asgi_app, make_wsgi_app
from prometheus_client.parser import text_string_to_metric_families as parse_text

from harken import Bus
from harken.catalog import ToolStarted
from harken.sinks.prometheus import PrometheusInstrumenter

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


@pytest.fixture
def metrics() -> PrometheusInstrumenter:
    """
    An instrumenter that has seen one tool call, and serves nothing by itself.
    """
    metrics = PrometheusInstrumenter()
    bus = Bus()
    bus.attach(metrics, delivery="inline")
    with bus.operation(ToolStarted(tool_name="search")):
        pass
    return metrics


class Silent(WSGIRequestHandler):
    """
    A handler that does not log its requests.
    """

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def wsgi(application: Any) -> Iterator[int]:
    """
    Serve *application* on the port that is given.
    """
    with make_server("127.0.0.1", 0, application, handler_class=Silent) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@contextmanager
def asgi(application: Any) -> Iterator[int]:
    """
    Serve *application* on the port that is given.
    """
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(application, log_config=None, lifespan="off"))
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listening])))
        thread.start()
        yield listening.getsockname()[1]
        server.should_exit = True
        thread.join()


def get(port: int, path: str = "/metrics", accept: str = "text/plain") -> str:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return str(answer.read().decode())


class TestMounting:
    """
    An application that serves the metrics beside its own pages.
    """

    def test_wsgi(self, metrics: PrometheusInstrumenter) -> None:
        """
        The registry is served by a WSGI application.
        """
        mounted = make_wsgi_app(metrics.registry)

        def application(environ: dict[str, Any], start_response: Any) -> Any:
            if environ["PATH_INFO"] == "/metrics":
                return mounted(environ, start_response)
            start_response("200 OK", [("Content-Type", "text/plain")])
            return [b"mine"]

        with wsgi(application) as port:
            shown, mine = get(port), get(port, "/")

        assert 'infra_agent_tool_calls_total{status="success",tool="search"} 1.0' in _sorted(shown)
        assert "mine" == mine

    def test_asgi(self, metrics: PrometheusInstrumenter) -> None:
        """
        The registry is served by an ASGI application, with exemplars for who can read them.
        """
        mounted = make_asgi_app(metrics.registry)

        async def application(scope: Any, receive: Any, send: Any) -> None:
            if scope["path"] == "/metrics":
                await mounted(scope, receive, send)
                return
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"mine"})

        with asgi(application) as port:
            shown, mine, open_metrics = get(port), get(port, "/"), get(port, accept=OPENMETRICS)

        assert 'infra_agent_tool_calls_total{status="success",tool="search"} 1.0' in _sorted(shown)
        assert ("mine", True) == (mine, ' # {span_id="' in open_metrics)

    def test_several_processes(
        self, run_python: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
    ) -> None:
        """
        Where processes add their numbers up, the registry that is mounted shows all of them.
        """
        numbers = tmp_path / "numbers"
        numbers.mkdir()
        worker = (
            "from harken import Bus\n"
            "from harken.catalog import ToolStarted\n"
            "from harken.sinks.prometheus import PrometheusInstrumenter\n"
            "from prometheus_client import make_wsgi_app\n"
            "metrics = PrometheusInstrumenter()\n"
            "bus = Bus()\n"
            "bus.attach(metrics)\n"
            "with bus.operation(ToolStarted(tool_name='search')):\n"
            "    pass\n"
            "bus.close()\n"
            "answer = make_wsgi_app(metrics.registry)(\n"
            "    {'REQUEST_METHOD': 'GET', 'PATH_INFO': '/metrics'}, lambda *_: None\n"
            ")\n"
            "print(b''.join(answer).decode())\n"
        )

        shown = [
            run_python(worker, env={"PROMETHEUS_MULTIPROC_DIR": str(numbers)}).stdout
            for _ in range(2)
        ]

        line = 'infra_agent_tool_calls_total{status="success",tool="search"} '
        assert [True, True] == [
            f"{line}{count}" in _sorted(text) for count, text in zip((1.0, 2.0), shown, strict=True)
        ]


def _sorted(text: str) -> list[str]:
    """
    The samples of *text* with their labels in order.
    """
    return [
        sample.name
        + "{"
        + ",".join(f'{name}="{word}"' for name, word in sorted(sample.labels.items()))
        + f"}} {sample.value}"
        for family in parse_text(text)
        for sample in family.samples
    ]
