"""
The agent, who calls tools that keep the contract, and the tools themselves.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

from behave import then, when
from scene import Scene

EXAMPLES = Path(__file__).parents[2] / "examples"


def _call(context: Scene, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(context.tool), *args],
        cwd=context.folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def _told(context: Scene) -> list[dict[str, object]]:
    done = _call(context, "audit-log", "--since", "1h", "--output", "jsonl")
    return [json.loads(line) for line in done.stdout.splitlines()]


@when('the agent calls "{words}" of the tool made with {library:w}')
def agent_calls(context: Scene, words: str, library: str) -> None:
    context.tool = EXAMPLES / f"deploy_{library}.py"
    context.ran = _call(context, *words.split())


@when("the tool made with {library:w} is stopped in the middle of a call")
def tool_is_stopped(context: Scene, library: str) -> None:
    context.tool = EXAMPLES / f"deploy_{library}.py"
    command = [sys.executable, str(context.tool), "verify", "staging", "--seconds", "60"]
    process = subprocess.Popen(
        command,
        cwd=context.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    out, error = process.communicate(timeout=60)
    context.ran = subprocess.CompletedProcess(command, process.returncode, out, error)


@then("the tool tells {count:d} call, with exit code {code:d}")
def tool_tells_calls(context: Scene, count: int, code: int) -> None:
    assert [code] * count == [call["exit_code"] for call in _told(context)]


@then('the tool tells nothing of "{text}"')
def tool_tells_nothing_of(context: Scene, text: str) -> None:
    found = _told(context)
    assert found
    assert text not in json.dumps(found)


@then('the tool tells the calls "{names}"')
def tool_tells_the_calls(context: Scene, names: str) -> None:
    assert names == ", ".join(str(call["command"]) for call in _told(context))


@then('harken shows "{names}" in the trail of "{session}"')
def harken_shows(context: Scene, names: str, session: str) -> None:
    log = json.loads(context.ran.stdout)["meta"]["audit_log_path"]
    shown = subprocess.run(
        [sys.executable, "-m", "harken", "trail", "-F", log, session],
        cwd=context.folder,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    found = re.findall(r"\+\S+ m?s command (\w+) +\S+ m?s", shown)
    # What the operator asked since, the tool tells, too.
    assert names == ", ".join(name for name in found if name != "audit-log"), shown
