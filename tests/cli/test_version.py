"""
`harken version`.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from importlib.metadata import distributions
from typing import Any

import pytest


@pytest.mark.parametrize("args", [["version"], ["--version"], ["--version", "no-such-command"]])
def test_is_one_line(call: Callable[..., Any], args: list[str]) -> None:
    """
    The version of harken and that of Python are one line, also as an option.
    """
    installed = [one.version for one in distributions(name="harken")] or ["unknown"]

    called = call(*args)

    assert (0, f"harken {installed[0]} (Python {platform.python_version()})\n", "") == called
