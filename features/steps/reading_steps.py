"""
The operator, who asks the log of a demo run.
"""

from __future__ import annotations

import atexit
import json
import os
import shlex
import signal
import subprocess
import sys
from functools import cache
from pathlib import Path
from shutil import copytree, rmtree
from tempfile import mkdtemp

from behave import given, then, when
from outputs import AUDIT, Line, lines
from scene import Scene

DEMO = Path("d", AUDIT)


def _harken(context: Scene, text: str) -> list[str]:
    return [sys.executable, "-m", *shlex.split(_filled(context, text))]


def _filled(context: Scene, text: str) -> str:
    """
    Put the ids of the demo's records where a command names them, such as RUN or DENIED.
    """
    words = text.split(" ")
    if not {"RUN_A", "RUN_B", "RUN", "DENIED", "GRANTED"} & set(words):
        return text
    found = lines(context.folder / DEMO)
    runs = [record["run_id"] for record in found if record["event_type"] == "run.started"]
    names = {
        "RUN_A": runs[0],
        "RUN_B": runs[1],
        "RUN": runs[0],
        "DENIED": _last(found, "tool.denied")["id"],
        "GRANTED": _last(found, "approval.granted")["id"],
    }
    return " ".join(names.get(word, word) for word in words)


def _last(found: list[Line], event_type: str) -> Line:
    return [record for record in found if record["event_type"] == event_type][-1]


@cache
def folder_of_a_demo() -> Path:
    """
    Run the demo, once for all scenarios, and return where its files are.
    """
    folder = Path(mkdtemp(prefix="harken-feature-demo-"))
    atexit.register(rmtree, folder)
    done = subprocess.run(
        [sys.executable, "-m", "harken", "demo", "--out", "d", "--runs", "2"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert 0 == done.returncode, done.stderr
    return folder / "d"


@given("the audit log of a demo, where HARKEN_AUDIT_JSONL_PATH says")
def log_of_a_demo(context: Scene) -> None:
    copytree(folder_of_a_demo(), context.folder / "d")
    os.environ["HARKEN_AUDIT_JSONL_PATH"] = str(context.folder / DEMO)


@given("half a line at its end")
def half_a_line(context: Scene) -> None:
    with (context.folder / DEMO).open("ab") as file:
        file.write(b'{"timestamp":')


@when("the operator asks `{command:Command}`")
def operator_asks(context: Scene, command: str) -> None:
    context.ran = subprocess.run(
        _harken(context, command),
        cwd=context.folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@when("the operator follows the log while `{command:Command}` runs")
def operator_follows(context: Scene, command: str) -> None:
    following = subprocess.Popen(
        _harken(context, "harken tail -f -n 1"),
        cwd=context.folder,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert following.stdout is not None
    following.stdout.readline()
    subprocess.run(_harken(context, command), cwd=context.folder, check=True)
    seen = [following.stdout.readline() for _ in range(3)]
    following.send_signal(signal.SIGINT)
    following.communicate(timeout=60)
    context.ran = subprocess.CompletedProcess(command, following.returncode, "".join(seen), "")


def records_of(context: Scene) -> list[Line]:
    return [json.loads(line) for line in context.ran.stdout.splitlines()]


@then("there are {count:d} lines")
def there_are_lines(context: Scene, count: int) -> None:
    assert count == len(context.ran.stdout.splitlines()), context.ran


@then('each line is a record with "{value}" as its "{name}"')
def each_line_is(context: Scene, value: str, name: str) -> None:
    found = records_of(context)
    assert found
    assert {value} == {record[name] for record in found}, found


@then('the line of "{text}" comes before that of "{other}"')
def comes_before(context: Scene, text: str, other: str) -> None:
    shown = context.ran.stdout
    assert -1 < shown.find(text) < shown.find(other), shown


@then('the answer\'s "{path}" is "{value}"')
def answers_member_is(context: Scene, path: str, value: str) -> None:
    found = json.loads(context.ran.stdout)
    for name in path.split("."):
        found = found[int(name)] if isinstance(found, list) else found[name]
    assert value == (found if isinstance(found, str) else json.dumps(found)), found
