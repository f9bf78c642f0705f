"""
What apps of each library may look like, beyond the samples.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.contract.tools import Line, calls

pytestmark = pytest.mark.once

Run = Callable[..., subprocess.CompletedProcess[str]]
Script = Callable[[str], Path]

CLICK = """
import click
from harken.contract import contract, current

{app}

contract(cli, tool="tool")()
"""

NESTED = """
@click.group(invoke_without_command=True)
@click.option("--profile", default="none")
@click.pass_context
def cli(context, profile):
    return None

@cli.group()
def db(): pass

@db.command()
@click.option("--pin", prompt=True, hide_input=True)
@click.option("--output")
def migrate(pin, output):
    return {"output": output}

@cli.command()
def ask():
    click.confirm("sure?", abort=True)

@cli.command()
@click.argument("file", type=click.File())
def load(file):
    current().explain("it is empty", code="EMPTY", suggestion="tool db migrate")
    raise click.ClickException("nothing to load")
"""

ONE = """
@click.command()
@click.option("--n", type=int)
def cli(n):
    return n
"""


@pytest.fixture
def last(data_home: Path) -> Callable[[], Line]:
    """
    A function that returns what is on record of the last call.
    """
    return lambda: calls(data_home / "tool" / "audit.jsonl")[-1]["metadata"]


class TestClick:
    @pytest.fixture
    def tool(self, script: Script, run: Run) -> Callable[..., subprocess.CompletedProcess[str]]:
        pytest.importorskip("click")
        program = script(CLICK.format(app=NESTED))
        return lambda *args, **more: run(program, *args, **more)

    def test_a_command_of_a_group_in_a_group(
        self, tool: Callable[..., Any], last: Callable[[], Line]
    ) -> None:
        """
        The command has the words that name it, the options of its groups, and nothing that was
        typed unseen; an option `--output` of its own stays its own.
        """
        done = tool("--profile", "prod", "db", "migrate", "--pin", "1234", "--output", "x.txt")

        assert {"output": "x.txt"} == json.loads(done.stdout)["data"]
        record = last()
        assert ("db migrate", 0) == (record["command"], record["exit_code"])
        assert {
            "profile": "prod",
            "pin": "[REDACTED:hidden_input]",
            "output": "x.txt",
        } == record["params"]

    def test_a_group_that_is_a_command_itself(
        self, tool: Callable[..., Any], last: Callable[[], Line]
    ) -> None:
        """
        A group that runs without a command has the tool's name.
        """
        assert (0, "tool") == (tool().returncode, last()["command"])

    @pytest.mark.parametrize("form", ["json", "text"])
    def test_an_answer_of_no(
        self, form: str, tool: Callable[..., Any], last: Callable[[], Line]
    ) -> None:
        """
        Whoever does not confirm aborts the command.
        """
        done = tool("ask", "--output", form, stdin=None, input="n\n")

        assert (1, 1, "ask") == (done.returncode, last()["exit_code"], last()["command"])

    def test_an_error_that_was_explained(
        self, tool: Callable[..., Any], tmp_path: Path, last: Callable[[], Line]
    ) -> None:
        """
        An open file is known by its name, and an error by what the command has said of it.
        """
        (tmp_path / "empty").touch()

        error = json.loads(tool("load", "empty").stdout)["error"]

        assert ("EMPTY", "it is empty", 1) == (
            error["code"],
            error["message"],
            error["exit_code"],
        )
        assert "tool db migrate" == error["suggestion"]
        assert {"profile": "none", "file": "empty"} == last()["params"]

    def test_output_before_an_added_command(self, tool: Callable[..., Any]) -> None:
        """
        The form of the answer may stand before the command.
        """
        answer = json.loads(tool("--output", "json", "audit-log").stdout)

        assert {"entries": []} == answer["data"]

    def test_a_single_command(self, script: Script, run: Run, last: Callable[[], Line]) -> None:
        """
        An app that is one command has the tool's name; a number it returns is its answer.
        """
        done = run(script(CLICK.format(app=ONE)), "--n", "7")

        assert ({"result": 7}, 0) == (json.loads(done.stdout)["data"], done.returncode)
        assert ("tool", {"n": 7}) == (last()["command"], last()["params"])

    def test_a_shell_that_completes(self, tool: Callable[..., Any], data_home: Path) -> None:
        """
        What a shell asks is answered by click, and is no call.
        """
        env = {"_TOOL_COMPLETE": "bash_complete", "COMP_WORDS": "tool d", "COMP_CWORD": "1"}

        assert "plain,db\n" == tool(env=env).stdout
        assert [] == calls(data_home / "tool" / "audit.jsonl")


class TestArgparse:
    APP = """
import argparse
from harken.contract import contract
parser = argparse.ArgumentParser(prog="tool")
parser.add_argument("--output")
parser.add_argument("--verbose", action="store_true")
{more}
contract(parser, tool="tool")()
"""

    def test_without_a_command(self, script: Script, run: Run, last: Callable[[], Line]) -> None:
        """
        A parser of which no command says what runs is wrong usage, in either form.
        """
        done = run(script(self.APP.format(more="")))

        assert (2, 2) == (done.returncode, last()["exit_code"])
        assert "no command was given" in json.loads(done.stdout)["error"]["message"]

    def test_an_option_with_the_name_of_a_command(
        self, script: Script, run: Run, last: Callable[[], Line]
    ) -> None:
        """
        The command on record is the one that ran, by its own name.
        """
        more = """
parser.add_argument("--profile")
commands = parser.add_subparsers(dest="command")
for name in ("deploy", "verify"):
    command = commands.add_parser(name, aliases=[name[0]])
    command.set_defaults(func=lambda options: sorted(vars(options)))
"""

        done = run(script(self.APP.format(more=more)), "--profile", "deploy", "v")

        assert ["command", "func", "output", "profile", "verbose"] == json.loads(done.stdout)[
            "data"
        ]
        assert ("verify", {"profile": "deploy", "output": None, "verbose": False}) == (
            last()["command"],
            last()["params"],
        )

    def test_a_parser_that_is_a_command_itself(
        self, script: Script, run: Run, last: Callable[[], Line]
    ) -> None:
        """
        A parser without commands has the tool's name, and keeps its own `--output`.
        """
        more = "parser.set_defaults(func=lambda options: {'file': options.output})"

        done = run(script(self.APP.format(more=more)), "--output", "x.txt")

        assert {"file": "x.txt"} == json.loads(done.stdout)["data"]
        assert ("tool", {"output": "x.txt", "verbose": False}) == (
            last()["command"],
            last()["params"],
        )


class TestCyclopts:
    APP = """
import cyclopts
from harken.contract import contract
app = cyclopts.App(name="tool")

@app.default
def main(*, output: str = "none", code: int = 0):
    return code if code else {"output": output}

@app.command
async def wait(ok: bool):
    return ok

contract(app, tool="tool")()
"""

    @pytest.mark.parametrize(
        ("args", "code", "command"),
        [
            (("--output", "x.txt"), 0, "tool"),
            (("--code", "3"), 3, "tool"),
            (("wait", "--ok", "--output", "json"), 0, "wait"),
            (("wait", "--no-ok", "--output", "json"), 1, "wait"),
            (("wait", "--no-ok", "--output", "text"), 1, "wait"),
        ],
    )
    def test_what_a_function_returns(
        self,
        args: tuple[str, ...],
        code: int,
        command: str,
        script: Script,
        run: Run,
        last: Callable[[], Line],
    ) -> None:
        """
        A number is the exit code, and a truth is success or not, as in cyclopts itself.
        """
        pytest.importorskip("cyclopts")

        done = run(script(self.APP), *args)

        assert (code, code, command) == (
            done.returncode,
            last()["exit_code"],
            last()["command"],
        ), done.stderr
