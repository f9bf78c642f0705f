"""
The audit log: its records, its chain, and what people do to it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from behave import given, then, when
from outputs import audit_path, lines, record_of, records, verify
from scene import ABSENT, Scene, compare, member

# What people do to the log. Lines are counted from 1, and are bytes with their line feed.


def change_a_letter(log: list[bytes]) -> None:
    log[2] = log[2].replace(b"/pull/", b"/pulL/", 1)


def add_a_member(log: list[bytes]) -> None:
    log[2] = log[2].replace(b'"metadata":{', b'"metadata":{"approved":true,', 1)


def remove_the_third(log: list[bytes]) -> None:
    del log[2]


def exchange(log: list[bytes]) -> None:
    log[2], log[3] = log[3], log[2]


def write_a_line(log: list[bytes]) -> None:
    log.insert(2, b'{"event_type":"pr.created","actor":"agent:billing"}\n')


def copy_the_second(log: list[bytes]) -> None:
    log.insert(2, log[1])


def remove_the_last_two(log: list[bytes]) -> None:
    del log[-2:]


TAMPERING: dict[str, Callable[[list[bytes]], None]] = {
    "changed a letter in the third line": change_a_letter,
    "added a member to the third line": add_a_member,
    "removed the third line": remove_the_third,
    "exchanged the third and the fourth line": exchange,
    "wrote a line before the third line": write_a_line,
    "copied the second line below itself": copy_the_second,
    "removed the last two lines": remove_the_last_two,
}


@given("somebody {tampers}")
def somebody_tampers(context: Scene, tampers: str) -> None:
    context.bus.close()
    path = audit_path(context)
    log = path.read_bytes().splitlines(keepends=True)
    TAMPERING[tampers](log)
    path.write_bytes(b"".join(log))


@given("the auditor has noted the head of the log")
def auditor_notes_the_head(context: Scene) -> None:
    context.bus.close()
    context.head = lines(audit_path(context))[-1]["hash"]


@given("the last record was torn by a loss of power")
def torn(context: Scene) -> None:
    # The agent has no time to close its log.
    path = audit_path(context)
    whole = path.read_bytes()
    context.bus.close()
    path.write_bytes(whole[:-100])


@given("the operator has renamed the audit log")
def renamed(context: Scene) -> None:
    path = audit_path(context)
    path.rename(f"{path}.1")


@given("the operator has copied and emptied the audit log")
def copied_and_emptied(context: Scene) -> None:
    path = audit_path(context)
    shutil.copyfile(path, f"{path}.1")
    with path.open("rb+") as file:
        file.truncate(0)


@when("the auditor runs the plain program over it")
def run_the_plain_program(context: Scene) -> None:
    context.ran = verify([audit_path(context)])


@then("the log is verified")
def is_verified(context: Scene) -> None:
    head = lines(audit_path(context))[-1]["hash"]
    assert (0, f"verified up to {head}\n") == (context.ran.returncode, context.ran.stdout)


@then("the log is verified, but up to another head")
def is_verified_up_to_another_head(context: Scene) -> None:
    is_verified(context)
    assert context.head not in context.ran.stdout


@then('the program stops at line {line:d} with "{why}"')
def stops_at(context: Scene, line: int, why: str) -> None:
    assert 0 != context.ran.returncode
    assert f"{audit_path(context)}:{line}: {why}" in context.ran.stderr, context.ran.stderr


def assert_whole(*paths: Path) -> None:
    ran = verify(paths)
    assert 0 == ran.returncode, ran.stderr
    assert lines(paths[-1])[-1]["hash"] in ran.stdout, ran.stdout


@then("the chain of the audit log is whole")
def chain_is_whole(context: Scene) -> None:
    assert_whole(audit_path(context))


@then('the chain of "{path}" is whole')
def chain_of_is_whole(context: Scene, path: str) -> None:
    assert_whole(Path(path))


# Several files of one log, from the oldest to the newest.


def files(context: Scene) -> list[Path]:
    path = audit_path(context)
    return [*sorted(path.parent.glob(f"{path.name}.*")), path]


@then("the audit log has several files")
def has_several_files(context: Scene) -> None:
    assert 2 <= len(files(context)), files(context)


@then("{count:d} pull requests are recorded in them")
def are_recorded_in_them(context: Scene, count: int) -> None:
    found = [record for path in files(context) for record in records(path)]
    assert ["pr.created"] * count == [record["event_type"] for record in found], len(found)


@then("the chain over all files is whole")
def chain_over_all_is_whole(context: Scene) -> None:
    assert_whole(*files(context))


@then('{count:d} pull requests are recorded in "{first}" and "{second}"')
def are_recorded_in(context: Scene, count: int, first: str, second: str) -> None:
    found = {record["id"]: record["event_type"] for record in records(first) + records(second)}
    assert ["pr.created"] * count == list(found.values()), found


@then('the first line of "{path}" says')
def first_line_says(context: Scene, path: str) -> None:
    first = lines(path)[0]
    compare(context.table, lambda name: member(first, name))


# Records.


@then("the audit log holds {expected:Names}")
def audit_log_holds(context: Scene, expected: list[str]) -> None:
    found = [record["event_type"] for record in records(audit_path(context))]
    assert expected == found, found


@then("the lines of the audit log are {expected:Names}")
def lines_are(context: Scene, expected: list[str]) -> None:
    found = [line["event_type"] for line in lines(audit_path(context))]
    assert expected == found, found


@then("the lines of the audit log end with {expected:Names}")
def lines_end_with(context: Scene, expected: list[str]) -> None:
    found = [line["event_type"] for line in lines(audit_path(context))]
    assert expected == found[-len(expected) :], found


@then("{writers:d} writers have recorded {count:d} tool calls in the audit log")
def writers_have_recorded_calls(context: Scene, writers: int, count: int) -> None:
    found = [r for r in records(audit_path(context)) if r["event_type"] == "tool.completed"]
    assert (writers, count) == (len({record["writer"] for record in found}), len(found)), found


@then("{writers:d} writers have recorded {count:d} pull requests in the audit log")
def writers_have_recorded_pull_requests(context: Scene, writers: int, count: int) -> None:
    found = [r for r in records(audit_path(context)) if r["event_type"] == "pr.created"]
    assert (writers, count) == (len({record["writer"] for record in found}), len(found)), found


@then('the record of "{name}" says')
def record_says(context: Scene, name: str) -> None:
    record = record_of(context, name)
    compare(context.table, lambda path: member(record, path))


@then('the record of "{name}" has no "{path}"')
def record_has_no(context: Scene, name: str, path: str) -> None:
    assert member(record_of(context, name), path) in (ABSENT, None)


@then('the record of "{name}" has a digest as its "{path}"')
def record_has_a_digest(context: Scene, name: str, path: str) -> None:
    digest = member(record_of(context, name), path)
    assert isinstance(digest, str) and digest.startswith("sha256:"), digest


@then('the record of "{name}" has the "{theirs}" of "{other}" as its "{own}"')
def record_has_the(context: Scene, name: str, theirs: str, other: str, own: str) -> None:
    assert record_of(context, other)[theirs] == record_of(context, name)[own]


@then('the record of "{name}" counts a "{kind}" among what was redacted')
def record_counts(context: Scene, name: str, kind: str) -> None:
    assert 1 <= record_of(context, name)["redacted"][kind]


@then('the records have the phases "{first}" and "{second}"')
def records_have_phases(context: Scene, first: str, second: str) -> None:
    found = [record["phase"] for record in records(audit_path(context))]
    assert [first] * 4 + [second] * 4 == found, found


@then('the record of "{name}" says that {count:d} bytes were cut')
def says_that_bytes_were_cut(context: Scene, name: str, count: int) -> None:
    ((size, digest),) = record_of(context, name)["truncated"].values()
    assert (True, 64) == (count <= size <= count + 100, len(digest)), (size, digest)


@then("nothing is left beside the log")
def nothing_is_left_beside(context: Scene) -> None:
    assert [] == list(context.folder.glob("audit.jsonl.spill-*"))


@then('the audit log does not mention "{text}"')
def audit_log_does_not_mention(context: Scene, text: str) -> None:
    log = audit_path(context).read_text()
    assert "command.completed" in log
    assert text not in log
