"""
Programs and commands, run as their users run them.
"""

from __future__ import annotations

import json
import platform
import shlex
import signal
import subprocess
import sys
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jsonschema
from behave import given, then, when
from outputs import AUDIT, LOG, SPANS, Line, lines, record_of, records
from scene import Scene


def run(context: Scene, *command: str, stdin: str = "") -> None:
    context.ran = subprocess.run(
        command,
        cwd=context.folder,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def run_program(context: Scene) -> int:
    run(context, sys.executable, *map(str, context.program))
    return context.ran.returncode


# Programs: what stands in features/programs, under the name that the step says.


@given("a program that {program:Program} made by {method:w}")
def program_with_an_argument(context: Scene, program: Path, method: str) -> None:
    context.program = [program, method]


@given("a program that {program:Program}")
@given("a program {program:Program}")
def program_that(context: Scene, program: Path) -> None:
    context.program = [program]


@when("the program runs")
def program_runs(context: Scene) -> None:
    assert 0 == run_program(context), context.ran.stderr


@when("the program runs and fails")
def program_fails(context: Scene) -> None:
    assert 0 < run_program(context), context.ran.stderr


@when("the program runs and is killed")
def program_is_killed(context: Scene) -> None:
    assert -signal.SIGKILL == run_program(context), context.ran.stderr


@then("the program was not disturbed")
def program_was_not_disturbed(context: Scene) -> None:
    assert "3 pull requests opened\n" == context.ran.stdout, context.ran


@then("the program was stopped {count:d} times, each time by an audit write error")
def program_was_stopped(context: Scene, count: int) -> None:
    expected = "AuditWriteError\n" * count + "0 pull requests opened\n"
    assert expected == context.ran.stdout, context.ran


# What the author of an agent writes.


@when("the author runs")
def author_runs(context: Scene) -> None:
    run(context, sys.executable, "-c", context.text)
    assert 0 == context.ran.returncode, context.ran.stderr


@given("the author's test")
def authors_test(context: Scene) -> None:
    (context.folder / "test_agent.py").write_text(context.text)


@when("the author runs the test with pytest")
def author_runs_pytest(context: Scene) -> None:
    run(context, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_agent.py")


@then("{count:d} test has passed")
def test_has_passed(context: Scene, count: int) -> None:
    assert 0 == context.ran.returncode, context.ran.stdout
    assert f"{count} passed" in context.ran.stdout, context.ran.stdout


@given("the author's file {path:Files}")
def authors_file(context: Scene, path: str) -> None:
    file = context.folder / "features" / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(context.text)


@when("the author runs these features with Behave")
def author_runs_behave(context: Scene) -> None:
    run(context, sys.executable, "-m", "behave", "--no-color")


@then("{count:d} steps have passed")
def steps_have_passed(context: Scene, count: int) -> None:
    assert 0 == context.ran.returncode, context.ran.stdout
    assert f"{count} steps passed" in context.ran.stdout, context.ran.stdout


@then("the program prints")
def program_prints(context: Scene) -> None:
    assert f"{context.text}\n" == context.ran.stdout, context.ran.stdout


@then("the program's first line is")
def programs_first_line(context: Scene) -> None:
    assert context.text == context.ran.stdout.splitlines()[0], context.ran.stdout


@then("the program prints a sentence with {words:Names}")
def program_prints_a_sentence(context: Scene, words: list[str]) -> None:
    (sentence,) = context.ran.stdout.splitlines()
    assert all(word in sentence for word in words), sentence


# The command line.


def harken_command(text: str) -> list[str]:
    program, *arguments = shlex.split(text)
    assert "harken" == program
    return [sys.executable, "-m", program, *arguments]


@when('the operator runs `{command}` with the input "{text}"')
def operator_runs_with_input(context: Scene, command: str, text: str) -> None:
    run(context, *harken_command(command), stdin=text)


@when("the operator runs `{command:Command}`")
def operator_runs(context: Scene, command: str) -> None:
    run(context, *harken_command(command))


@then("the exit code is {code:d}")
def exit_code_is(context: Scene, code: int) -> None:
    assert code == context.ran.returncode, context.ran


@then('standard output is "{text}"')
def standard_output_is(context: Scene, text: str) -> None:
    assert text == context.ran.stdout.rstrip("\n"), context.ran.stdout


@then('standard error is "{text}"')
def standard_error_is(context: Scene, text: str) -> None:
    assert text == context.ran.stderr.rstrip("\n"), context.ran.stderr


@then('standard output mentions "{text}"')
def standard_output_mentions(context: Scene, text: str) -> None:
    assert text in context.ran.stdout, context.ran.stdout


@then('standard error mentions "{text}"')
def standard_error_mentions(context: Scene, text: str) -> None:
    assert text in context.ran.stderr, context.ran.stderr


@then('standard error does not mention "{text}"')
def standard_error_does_not_mention(context: Scene, text: str) -> None:
    assert context.ran.stderr
    assert text not in context.ran.stderr, context.ran.stderr


@then('standard error is one sentence that mentions "{text}"')
def standard_error_is_one_sentence(context: Scene, text: str) -> None:
    (sentence,) = context.ran.stderr.splitlines()
    assert text in sentence, sentence


@then('standard error has one JSON line, "{message}", with "{value}" as its "{name}"')
def standard_error_has_a_line(context: Scene, message: str, value: str, name: str) -> None:
    (text,) = (text for text in context.ran.stderr.splitlines() if message in text)
    line = json.loads(text)
    assert (message, value) == (line["message"], line[name]), line


@then("standard output is the version of harken and of Python")
def standard_output_is_the_version(context: Scene) -> None:
    expected = f"harken {version('harken')} (Python {platform.python_version()})\n"
    assert expected == context.ran.stdout, context.ran.stdout


@then('there is no file "{name}"')
def there_is_no_file(context: Scene, name: str) -> None:
    assert not (context.folder / name).exists()


@then('the folder "{folder}" holds {expected:Names}')
def folder_holds(context: Scene, folder: str, expected: list[str]) -> None:
    found = sorted(path.name for path in (context.folder / folder).iterdir())
    assert expected == found, found


# The demo.


@then('the tool calls in "{folder}" ended as {outcomes:Words}')
def calls_ended_as(context: Scene, folder: str, outcomes: list[str]) -> None:
    found = records(context.folder / folder / AUDIT)
    ended = {one["outcome"] for one in found if one["event_type"].startswith("tool.")}
    assert {None, *outcomes} == ended, ended


@then(
    'each tool call in "{folder}" has the same ids in "audit.jsonl", "events.log" and "spans.jsonl"'
)
def calls_have_the_same_ids(context: Scene, folder: str) -> None:
    def ids(found: list[Line], name: str, prefixes: tuple[str, ...]) -> Counter[tuple[str, str]]:
        return Counter(
            (one["trace_id"], one["span_id"]) for one in found if one[name].startswith(prefixes)
        )

    ends = ("tool.completed", "tool.failed", "tool.denied")
    path = context.folder / folder
    audited = ids(records(path / AUDIT), "event_type", ends)
    assert audited
    assert audited == ids(lines(path / LOG), "event_name", ends)
    assert audited == ids(lines(path / SPANS), "name", ("execute_tool ",))


# The catalog.


def answer(context: Scene) -> Any:
    assert 0 == context.ran.returncode, context.ran.stderr
    return json.loads(context.ran.stdout)


def listed(context: Scene) -> dict[str, bool]:
    return {one["name"]: one["audited"] for one in answer(context)["data"]}


@then("the answer lists at least {count:d} types")
def answer_lists_at_least(context: Scene, count: int) -> None:
    assert count <= len(listed(context)), len(listed(context))


@then('the answer lists "{audited}" as audited and "{other}" as not audited')
def answer_lists_as_audited(context: Scene, audited: str, other: str) -> None:
    found = listed(context)
    assert (True, False) == (found[audited], found[other])


@then('the "{member}" of the record of "{name}" fits that schema')
def fits_that_schema(context: Scene, member: str, name: str) -> None:
    schema = answer(context)
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(record_of(context, name)[member], schema)
    assert list(jsonschema.Draft202012Validator(schema).iter_errors({"url": 7}))
