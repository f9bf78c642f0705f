"""
The auditor, who verifies logs with what they have kept elsewhere.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

from agent import open_pull_request
from behave import given, then, when
from outputs import AUDIT, audit_path
from scene import Scene, use

import harken
from harken.sinks.audit import create_key, create_signing_key

EXIT_CODES = {"verified": 0, "tampered": 1, "undecided": 2, "incomplete": 3}
KEY, PUBLIC_KEY, HEADS = "first.key", "public.pem", "heads"


def auditor_runs(context: Scene, *args: str) -> None:
    context.ran = subprocess.run(
        [sys.executable, "-m", "harken", *args],
        cwd=context.folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def findings(context: Scene) -> list[dict[str, object]]:
    found = json.loads(context.ran.stdout)["findings"]
    assert isinstance(found, list)
    return found


def files(context: Scene) -> list[Path]:
    path = audit_path(context)
    return [*sorted(path.parent.glob(f"{path.name}.2*")), path]


# What there is.


@given("the sealed audit log of an agent that opened {count:d} pull requests")
def sealed_log(context: Scene, count: int) -> None:
    Path(KEY).write_text(create_key("agent.key") + "\n")
    os.environ["HARKEN_AUDIT_KEY_PATH"] = "agent.key"
    agent_opens(context, count)


def agent_opens(context: Scene, count: int) -> None:
    bus = harken.configure(audit_jsonl_path=AUDIT, metrics=False, log=False, traces="off")
    use(context, bus)
    for number in range(1, count + 1):
        open_pull_request(bus, number)
    bus.close()


@given("the signed audit log of an agent that opened {count:d} pull requests")
def signed_log(context: Scene, count: int) -> None:
    Path(PUBLIC_KEY).write_text(create_signing_key("signing.key"))
    os.environ["HARKEN_AUDIT_SIGNING_KEY_PATH"] = "signing.key"
    agent_opens(context, count)


@given("the auditor keeps the head of the log")
def auditor_keeps_the_head(context: Scene) -> None:
    context.bus.close()
    auditor_runs(context, "head", str(audit_path(context)))
    Path(HEADS).write_text(context.ran.stdout)


@given("the auditor has mistaken the key")
def auditor_has_mistaken_the_key(context: Scene) -> None:
    Path(KEY).write_text("ab" * 32 + "\n")


@given("an intruder has removed the second file of the log")
def removed_the_second_file(context: Scene) -> None:
    context.bus.close()
    files(context)[1].unlink()


@given("an intruder has written the whole log anew")
def wrote_anew(context: Scene) -> None:
    path = audit_path(context)
    prev, lines = "0" * 64, list[bytes]()
    for line in path.read_bytes().replace(b"/pull/3", b"/pull/9").splitlines():
        covered = line[: -75 - 74] + f',"prev":"{prev}"'.encode()
        prev = sha256(covered).hexdigest()
        lines.append(covered + f',"hash":"{prev}"}}\n'.encode())
    path.write_bytes(b"".join(lines))


# What the auditor does.


@when("the auditor verifies the log")
def auditor_verifies(context: Scene) -> None:
    context.bus.close()
    auditor_runs(context, "verify", str(audit_path(context)), "--json")


@when("the auditor verifies the chain of the log")
def auditor_verifies_the_chain(context: Scene) -> None:
    context.bus.close()
    auditor_runs(context, "verify", str(audit_path(context)), "--chain-only", "--json")


@when("the auditor verifies the log with the key")
def auditor_verifies_with_the_key(context: Scene) -> None:
    auditor_runs(context, "verify", str(audit_path(context)), "--key", KEY, "--json")


@when("the auditor verifies the log with the public key")
def auditor_verifies_with_the_public_key(context: Scene) -> None:
    heads = ("--anchor", HEADS) if Path(HEADS).exists() else ()
    path = str(audit_path(context))
    auditor_runs(context, "verify", path, "--public-key", PUBLIC_KEY, *heads, "--json")


@when("the auditor verifies the log with the head")
def auditor_verifies_with_the_head(context: Scene) -> None:
    auditor_runs(context, "verify", str(audit_path(context)), "--anchor", HEADS, "--json")


# What they are told.


@then("the log is found to be {verdict:w}")
def is_found_to_be(context: Scene, verdict: str) -> None:
    assert EXIT_CODES[verdict] == context.ran.returncode, context.ran


@then('the reason is that "{text}"')
def reason_is(context: Scene, text: str) -> None:
    messages = [str(finding["message"]) for finding in findings(context)]
    assert any(text in message for message in messages), messages


@then("line {line:d} is named as {kind:w}")
def line_is_named(context: Scene, line: int, kind: str) -> None:
    places = [(finding["kind"], finding["line"]) for finding in findings(context)]
    assert (kind, line) in places, places


@then("the third file is named as the one before which lines are missing")
def third_file_is_named(context: Scene) -> None:
    third = files(context)[1]
    places = [(finding["kind"], finding["file"], finding["line"]) for finding in findings(context)]
    assert ("missing", str(third), 1) in places, places
