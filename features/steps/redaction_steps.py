"""
What stands in the audit log in place of secrets.
"""

from __future__ import annotations

import json
import secrets
from pathlib import Path

from behave import given, then, when
from outputs import AUDIT, records
from scene import Scene

import harken
from harken.catalog import ToolStarted


@given('a file "{name}" with a random key')
def file_with_a_random_key(context: Scene, name: str) -> None:
    (context.folder / name).write_text(secrets.token_hex(32))


@given('a file "{name}" with the key "{key}"')
def file_with_the_key(context: Scene, name: str, key: str) -> None:
    (context.folder / name).write_text(key)


@then('"{secret}" is in no record, and "{one}" and "{other}" show the same mark')
def same_mark(context: Scene, secret: str, one: str, other: str) -> None:
    assert secret not in Path(AUDIT).read_text()
    arguments: dict[str, str] = {}
    for record in records(AUDIT):
        arguments |= record["metadata"].get("arguments", {})
    assert arguments[one].startswith("[HMAC:"), arguments
    assert arguments[one] == arguments[other], arguments


@when("the agent calls a tool with the arguments `{arguments:Command}`")
def calls_with_arguments(context: Scene, arguments: str) -> None:
    context.bus.publish(ToolStarted(tool_name="search", arguments=json.loads(arguments)))


@when('the agent "{actor}" calls the tool "{name}", which fails with "{message}"')
def calls_and_fails(context: Scene, actor: str, name: str, message: str) -> None:
    with (
        harken.scope(actor=actor),
        context.bus.operation(ToolStarted(tool_name=name)) as call,
    ):
        call.fail(message)


def arguments_outside(context: Scene) -> dict[str, object]:
    (envelope,) = context.listener.envelopes
    arguments: dict[str, object] = envelope.data()["arguments"]
    return arguments


@then("the arguments `{arguments:Command}` leave the process")
def arguments_leave(context: Scene, arguments: str) -> None:
    found = arguments_outside(context)
    assert json.loads(arguments) == found, found


@then('the argument "{name}" leaves the process as "{value}"')
def argument_leaves(context: Scene, name: str, value: str) -> None:
    found = arguments_outside(context)
    assert {name: value} == found, found
