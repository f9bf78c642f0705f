"""
``harken version``.
"""

from __future__ import annotations

import platform
from importlib.metadata import distributions

import click


def version_line() -> str:
    """
    Return the versions of harken and of the Python that runs it, in one line.
    """
    versions = (distribution.version for distribution in distributions(name="harken"))
    found = next(versions, "unknown")
    return f"harken {found} (Python {platform.python_version()})"


@click.command(name="version")
def command() -> None:
    """
    Print the version.
    """
    click.echo(version_line())
