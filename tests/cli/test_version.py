"""
`harken version`.
"""

from __future__ import annotations

import platform
from importlib.metadata import distributions

import pytest
from click.testing import CliRunner

from harken.cli import main


@pytest.mark.parametrize("args", [["version"], ["--version"], ["--version", "no-such-command"]])
def test_is_one_line(args: list[str]) -> None:
    """
    The version of harken and that of Python are one line, also as an option.
    """
    installed = [one.version for one in distributions(name="harken")] or ["unknown"]

    result = CliRunner().invoke(main, args)

    assert (0, f"harken {installed[0]} (Python {platform.python_version()})\n") == (
        result.exit_code,
        result.output,
    )
