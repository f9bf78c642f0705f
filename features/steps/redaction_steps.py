"""
What stands in the audit log in place of secrets.
"""

from __future__ import annotations

import secrets
from pathlib import Path

from behave import given, then
from outputs import AUDIT, records
from scene import Scene


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
