"""
The sample tools, and what they leave behind.
"""

from __future__ import annotations

import json
import os
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
LIBRARIES = ("click", "typer", "argparse", "cyclopts")

Line = dict[str, Any]
Environment = dict[str, str | None]


def environment(changes: Environment | None) -> dict[str, str]:
    changed = {**os.environ, **(changes or {})}
    return {name: value for name, value in changed.items() if value is not None}


def example(library: str) -> Path:
    pytest.importorskip(library)
    return EXAMPLES / f"deploy_{library}.py"


def calls(log: Path) -> list[Line]:
    """
    Return the records of calls.
    """
    if not log.exists():
        return []
    lines = map(json.loads, log.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line["event_type"] == "command.completed"]


def check(name: str, document: object) -> None:
    """
    Fail unless *document* is what the schema called *name* says.
    """
    schema = json.loads((files("harken.contract") / "schemas" / f"{name}.json").read_bytes())
    jsonschema.validate(
        document, schema, jsonschema.Draft202012Validator, format_checker=jsonschema.FormatChecker()
    )
