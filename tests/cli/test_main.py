"""
What holds for every command: help, fast start, errors, exit codes, pipes, terminals.
"""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any

import click
import pytest

from harken.cli import COMMANDS, exit_code_of, main
from harken.cli._common import printable
from harken.errors import (
    AuditPathError,
    ClosedBusError,
    HarkenError,
    MetricsServerError,
    SettingsError,
    TraceExporterError,
    UnknownEventError,
)

Call = Callable[..., Any]
Run = Callable[..., subprocess.CompletedProcess[str]]
RunPython = Callable[..., subprocess.CompletedProcess[str]]

LOADED_BY = """
import sys
from harken.cli import main
main(sys.argv[1:], standalone_mode=False)
print(*sys.modules, file=sys.stderr)
"""


class TestHelp:
    def test_names_every_command(self, call: Call) -> None:
        """
        `harken --help` lists all commands with the first sentence of their own help.
        """
        shown = call("--help").out

        for name, summary in COMMANDS.items():
            module = name.replace("-", "_")
            command: click.Command = import_module(f"harken.cli.{module}").command
            assert name == command.name
            assert summary.rstrip(".") == command.get_short_help_str(100).rstrip(".")
            assert re.search(rf"^  {name} +{re.escape(summary)}$", shown, re.MULTILINE)

    @pytest.mark.parametrize("name", COMMANDS)
    @pytest.mark.parametrize("option", ["-h", "--help"])
    def test_every_command_has_its_own(self, call: Call, name: str, option: str) -> None:
        """
        `harken COMMAND --help` says how to call it.
        """
        called = call(name, option)

        assert 0 == called.code
        assert called.out.startswith(f"Usage: harken {name} ")

    def test_says_what_exit_codes_mean(self, call: Call) -> None:
        """
        The exit codes are documented where they are looked for.
        """
        shown = " ".join(call("--help").out.split())

        assert "0 done, 1 failed, 2 wrong usage or a malformed setting, 4 a file" in shown

    @pytest.mark.parametrize("args", [["catalog"], ["schema"], ["exec", "true"]], ids=" ".join)
    def test_a_command_loads_no_rich(self, run_python: RunPython, args: list[str]) -> None:
        """
        Off a terminal nothing is drawn, and what would draw it is not loaded.
        """
        loaded = set(run_python(LOADED_BY, *args).stderr.split())

        assert set() == loaded & {"rich", "structlog", "prometheus_client", "opentelemetry"}

    @pytest.mark.parametrize("args", [["--help"], ["--version"], ["version"], ["version", "-h"]])
    def test_loads_no_other_command(self, run_python: RunPython, args: list[str]) -> None:
        """
        Help and version start without any command that they do not need, without a sink, and
        without rich.
        """
        others = {f"harken.cli.{name.replace('-', '_')}" for name in COMMANDS if name != "version"}

        loaded = set(run_python(LOADED_BY, *args).stderr.split())

        assert set() == loaded & {*others, "harken.sinks", "harken.catalog", "rich", "orjson"}


def test_importing_the_module_runs_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """
    A program that looks at all modules of the package does not call the command line.
    """
    importlib.reload(import_module("harken.__main__"))

    assert ("", "") == tuple(capsys.readouterr())


def test_output_may_go_elsewhere() -> None:
    """
    A program that takes standard output for itself gets what the command says.
    """
    with redirect_stdout(StringIO()) as shown, pytest.raises(SystemExit) as end:
        main(["version"])

    assert (None, "harken ") == (end.value.code, shown.getvalue()[:7])


def test_a_shell_completes_commands(harken: Run) -> None:
    """
    The shell's completion knows the commands.
    """
    env = {"_HARKEN_COMPLETE": "bash_complete", "COMP_WORDS": "harken ca", "COMP_CWORD": "1"}

    assert "plain,catalog\n" == harken(env=env).stdout


class TestWithoutStandaloneMode:
    """
    An application that has the command line within its own is told, not ended.
    """

    def test_returns(self) -> None:
        """
        A command that went well returns.
        """
        assert main(["version"], standalone_mode=False) is None

    def test_raises(self) -> None:
        """
        A mistake is raised as click raises it.
        """
        with pytest.raises(click.UsageError, match="no-such-command"):
            main(["no-such-command"], standalone_mode=False)


class TestErrors:
    @pytest.mark.parametrize(
        ("code", "error"),
        [
            (1, HarkenError("any")),
            (1, ClosedBusError("closed")),
            (1, MetricsServerError("in use")),
            (2, SettingsError("malformed")),
            (2, UnknownEventError("unknown")),
            (4, AuditPathError("unwritable", "audit.jsonl")),
            (4, TraceExporterError("not installed")),
        ],
        ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
    )
    def test_have_exit_codes(self, code: int, error: HarkenError) -> None:
        """
        A script can tell what kind of error it was.
        """
        assert code == exit_code_of(error)

    @pytest.mark.parametrize(
        "args",
        [["no-such-command"], ["catalog", "--no-such-option"], ["demo", "--runs", "0"], ["exec"]],
        ids=" ".join,
    )
    def test_wrong_usage(self, call: Call, args: list[str]) -> None:
        """
        A call that cannot be understood shows how it is called, and exits with 2.
        """
        called = call(*args)

        assert (2, "") == (called.code, called.out)
        assert called.err.startswith("Usage: harken ")
        assert "\nError: " in called.err

    def test_malformed_setting(self, harken: Run) -> None:
        """
        A malformed setting is one sentence that names it, without a traceback.
        """
        done = harken("demo", returncode=2, env={"HARKEN_AUDIT_DURABILITY": "eternal"})

        (line,) = done.stderr.splitlines()
        assert line.startswith("Error: HARKEN_AUDIT_DURABILITY: ")
        assert "" == done.stdout

    def test_audit_log_that_cannot_be_opened(self, harken: Run, tmp_path: Path) -> None:
        """
        An audit log that cannot be opened is one sentence that names it.
        """
        (tmp_path / "out" / "audit.jsonl").mkdir(parents=True)

        done = harken("demo", "--out", "out", returncode=4)

        (line,) = done.stderr.splitlines()
        assert "audit.jsonl" in line

    def test_log_that_cannot_be_opened(self, harken: Run, tmp_path: Path) -> None:
        """
        Any other file that cannot be opened is one sentence that names it.
        """
        (tmp_path / "out" / "events.log").mkdir(parents=True)

        done = harken("demo", "--out", "out", returncode=4)

        (line,) = done.stderr.splitlines()
        assert "events.log" in line

    @pytest.mark.parametrize(
        "args", [["catalog", "\x1b[31mx\u202e"], ["catalog", "--\x9b31mx"], ["x\x1b]0;x\x07"]]
    )
    def test_show_what_was_given_harmlessly(self, call: Call, args: list[str]) -> None:
        """
        What an error repeats of the call cannot steer the terminal.
        """
        called = call(*args)

        assert 2 == called.code
        assert all(char.isprintable() for char in called.err.replace("\n", ""))


class TestPipe:
    @pytest.mark.parametrize("command", ["catalog", "schema"])
    def test_that_is_closed_early(
        self, started: Callable[..., subprocess.Popen[str]], command: str
    ) -> None:
        """
        A reader that has seen enough, as `head` has, is no error and is not complained about.
        """
        process = started(command)
        assert process.stdout is not None and process.stderr is not None

        process.stdout.close()
        complaints = process.stderr.read()

        assert (0, "") == (process.wait(timeout=60), complaints)

    def test_of_the_help(self, started: Callable[..., subprocess.Popen[str]]) -> None:
        """
        Nor is it one when it was the help that was asked for.
        """
        process = started("--help")
        assert process.stdout is not None and process.stderr is not None

        process.stdout.close()
        complaints = process.stderr.read()

        assert (0, "") == (process.wait(timeout=60), complaints)

    @pytest.mark.parametrize("arguments", ["version", "doctor", "exec -- true"])
    def test_that_was_never_open(
        self, harken: Callable[..., object], tmp_path: Path, arguments: str
    ) -> None:
        """
        Who closes standard output gets no answer and no traceback.
        """
        command = f"{sys.executable} -m harken {arguments} >&-"
        env = {**os.environ, "HARKEN_AUDIT_JSONL_PATH": str(tmp_path / "audit.jsonl")}

        done = subprocess.run(
            command,
            shell=True,
            cwd=tmp_path,
            env=env,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )

        assert (0, "") == (done.returncode, done.stderr)


class TestTerminal:
    def test_has_colours(self, on_terminal: Callable[..., object]) -> None:
        """
        On a terminal, names stand out.
        """
        terminal = on_terminal("catalog", "llm.*")

        assert 0 == terminal.wait()
        assert "\x1b[36mllm.chunk" in terminal.shown

    def test_without_colours(self, on_terminal: Callable[..., object]) -> None:
        """
        With `NO_COLOR`, a terminal gets plain text.
        """
        terminal = on_terminal("catalog", "llm.*", env={"NO_COLOR": "1"})

        assert 0 == terminal.wait()
        assert "llm.chunk" in terminal.shown
        assert "\x1b" not in terminal.shown

    def test_is_not_overrun(self, on_terminal: Callable[..., object]) -> None:
        """
        On a terminal, long texts are wrapped to its width.
        """
        terminal = on_terminal("catalog", "agent.*", columns=60, env={"NO_COLOR": "1"})

        assert 0 == terminal.wait()
        assert 60 >= max(map(len, terminal.shown.splitlines()))


@pytest.mark.parametrize(
    ("shown", "given"),
    [
        ("plain, ünïcødé, 統計", "plain, ünïcødé, 統計"),
        (r"\x1b[2J", "\x1b[2J"),
        (r"one\r\ntwo\x07", "one\r\ntwo\x07"),
        (r"\x9b31m\x85", "\x9b31m\x85"),
        (r"evil\u202etxt.exe\u2066\u200b", "evil\u202etxt.exe\u2066\u200b"),
        (r"\udcff\ud800", "\udcff\ud800"),
        (r"\u2028\x7f", "\u2028\x7f"),
    ],
    ids=["harmless", "escape", "line end", "C1", "bidi", "surrogate", "separator"],
)
def test_printable(shown: str, given: str) -> None:
    """
    Text from outside can neither steer a terminal nor show itself as something else.
    """
    assert shown == printable(given)
