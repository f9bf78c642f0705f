"""
Logging inside of programs that have logging, streams and hooks of their own.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

SERVERS_ARE_REQUIRED = os.environ.get("HARKEN_REQUIRE_SERVERS") == "1"

APPLICATION = """
import logging
import harken, structlog

harken.configure_logging({options})
log = structlog.get_logger("app")

async def application(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({{"type": message["type"] + ".complete"}})
            if message["type"] == "lifespan.shutdown":
                return
    with harken.scope(run_id=scope["path"]):
        log.info("asked", colour="blue")
        logging.getLogger("library").warning("slow")
        if scope["path"] == "/broken":
            password = "local-value"
            raise ValueError("token=abcd1234efgh5678 refused")
    await send({{"type": "http.response.start", "status": 200, "headers": []}})
    await send({{"type": "http.response.body", "body": b"fine"}})
"""


class Served:
    """
    An application under uvicorn that was asked for one page that works and one that does not.
    """

    def __init__(self, folder: Path, options: str) -> None:
        (folder / "app.py").write_text(APPLICATION.format(options=options))
        with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
            command = [sys.executable, "-m", "uvicorn", "app:application", "--port", "0"]
            with subprocess.Popen(command, cwd=folder, stdout=out, stderr=err) as server:
                try:
                    port = self._port(folder / "err", server)
                    for path in ("fine", "broken"):
                        try:
                            urllib.request.urlopen(
                                f"http://127.0.0.1:{port}/{path}", timeout=30
                            ).close()
                        except urllib.error.HTTPError as error:
                            error.close()
                finally:
                    server.terminate()
        self.out = (folder / "out").read_text()
        self.err = (folder / "err").read_text()

    def _port(self, path: Path, server: subprocess.Popen[bytes]) -> str:
        for _ in range(3000):
            found = re.search(r"running on http://127\.0\.0\.1:(\d+)", path.read_text())
            if found:
                return found.group(1)
            if server.poll() is not None:
                break
            time.sleep(0.01)
        pytest.fail(f"uvicorn does not serve:\n{path.read_text()}")

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.err.splitlines() if line.startswith("{")]


class TestUvicorn:
    """
    An application that is served by uvicorn, which sets up loggers of its own.
    """

    def test_every_line_is_harkens(self, tmp_path: Path) -> None:
        """
        With force, the server's lines, accesses and errors of requests have harken's form, too.
        """
        served = Served(tmp_path, "force=True")

        assert "" == served.out
        assert len(served.lines) == len(served.err.splitlines())
        assert 2 == sum("GET /" in line["message"] for line in served.lines)
        [broken] = [line for line in served.lines if "exception" in line]
        assert ("uvicorn.error", "error", "ValueError") == (
            broken["logger"],
            broken["level"],
            broken["error.type"],
        )
        assert not {"abcd1234efgh5678", "local-value", "color_message"} & {
            *re.findall(r"[\w-]+", served.err)
        }

    def test_application_is_heard_once(self, tmp_path: Path) -> None:
        """
        Without force, uvicorn's lines stay its own, and the application's come once, with its ids.
        """
        served = Served(tmp_path, "")

        assert [
            ("asked", "app", "/fine"),
            ("slow", "library", "/fine"),
            ("asked", "app", "/broken"),
            ("slow", "library", "/broken"),
        ] == [(line["message"], line["logger"], line["run_id"]) for line in served.lines]
        assert 'GET /fine HTTP/1.1" 200 OK' in served.out
        assert "INFO:     Uvicorn running on" in served.err


class TestPytest:
    """
    Tests of an application that logs through harken.
    """

    def test_tools_of_pytest_work(
        self, run_python: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
    ) -> None:
        """
        Records, captured output, expected warnings and reports are what they are without harken.
        """
        (tmp_path / "test_app.py").write_text(
            textwrap.dedent(
                """
                import json, logging, threading, warnings
                import pytest, structlog, harken

                @pytest.fixture(scope="session", autouse=True)
                def configured():
                    with harken.configure_logging():
                        yield

                def test_records(caplog):
                    structlog.get_logger("app").warning("disk full", host="web-1")
                    logging.getLogger("app").error("no %s", "space")
                    assert [("app", 30, "disk full"), ("app", 40, "no space")] == caplog.record_tuples

                def test_output(capsys):
                    structlog.get_logger("app").warning("disk full", host="web-1")
                    line = json.loads(capsys.readouterr().err)
                    assert ("disk full", "web-1") == (line["message"], line["host"])

                def test_descriptors(capfd):
                    logging.getLogger("app").warning("once")
                    assert 1 == capfd.readouterr().err.count("once")

                def test_warnings():
                    with pytest.warns(UserWarning, match="careful"):
                        warnings.warn("careful")

                def test_structlogs_own():
                    with structlog.testing.capture_logs() as logs:
                        structlog.get_logger("app").info("quiet", n=1)
                    assert [{"event": "quiet", "n": 1, "log_level": "info"}] == logs

                def test_fails():
                    logging.getLogger("app").warning("shown in the report")
                    assert False
                """
            )
        )

        done = run_python(
            "import sys, pytest; sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider']))",
            returncode=1,
        )

        assert "1 failed, 5 passed" in done.stdout
        assert "WARNING  app:test_app.py" in done.stdout
        assert '"message":"shown in the report"' in done.stdout
        assert "" == done.stderr


class Notebook:
    """
    A kernel as a notebook runs it.
    """

    def __init__(self, folder: Path) -> None:
        # It has no types, and is not there wherever harken is.
        manager: Any = importlib.import_module("jupyter_client.manager")
        self._kernel, self._client = manager.start_new_kernel(
            kernel_name="python3", cwd=str(folder), stderr=subprocess.DEVNULL
        )

    def run(self, code: str) -> dict[str, str]:
        """
        Run a cell; return what it shows: the text of each stream, and the name of an error.
        """
        shown: dict[str, str] = {}

        def show(message: dict[str, Any]) -> None:
            content = message["content"]
            if message["msg_type"] == "stream":
                shown[content["name"]] = shown.get(content["name"], "") + content["text"]
            elif message["msg_type"] == "error":
                shown["error"] = content["ename"]

        self._client.execute_interactive(textwrap.dedent(code), output_hook=show, timeout=60)
        return shown

    def close(self) -> None:
        self._client.stop_channels()
        self._kernel.shutdown_kernel(now=True)


@pytest.fixture
def notebook(tmp_path: Path) -> Iterator[Notebook]:
    """
    A notebook with an empty folder.
    """
    for package in ("ipykernel", "jupyter_client"):
        if importlib.util.find_spec(package) is None:
            if SERVERS_ARE_REQUIRED:
                pytest.fail(f"{package} is not installed, and HARKEN_REQUIRE_SERVERS=1 requires it")
            pytest.skip(f"{package} is not installed")
    notebook = Notebook(tmp_path)
    yield notebook
    notebook.close()


class TestJupyter:
    """
    A notebook.
    """

    def test_cells(self, notebook: Notebook) -> None:
        """
        Lines come below the cell that logs, once, however often the cell that sets it up was run;
        and a cell's own error is shown by the notebook.
        """
        set_up = "import logging, warnings, harken, structlog\nharken.configure_logging('text')"
        first = [notebook.run(set_up), notebook.run(set_up)]
        logged = notebook.run("structlog.get_logger('a').info('one'); logging.warning('two')")
        warned = notebook.run("warnings.warn('careful')")
        died = notebook.run(
            """
            import threading
            thread = threading.Thread(target=lambda: 1 / 0)
            thread.start(); thread.join()
            """
        )
        failed = notebook.run("1 / 0")

        assert [{}, {}] == first
        assert [["stderr"]] * 3 == [list(shown) for shown in (logged, warned, died)]
        assert (1, 1) == (logged["stderr"].count(" one "), logged["stderr"].count(" two "))
        assert "UserWarning: careful" in warned["stderr"]
        assert "ZeroDivisionError" in died["stderr"]
        assert {"error": "ZeroDivisionError"} == failed

    def test_events(self, notebook: Notebook) -> None:
        """
        Events are logged below the cell, and a bus is closed on the notebook's own event loop.
        """
        notebook.run(
            """
            import harken
            from harken.catalog import PrCreated
            bus = harken.configure(audit=False, metrics=False, traces="off")
            """
        )
        published = notebook.run("bus.publish(PrCreated(url='u')); bus.flush();")
        closed = notebook.run("await bus.aclose()")

        assert ["stderr"] == list(published)
        assert ("pr created: pr:u", {}) == (json.loads(published["stderr"])["message"], closed)
