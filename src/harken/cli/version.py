"""
``harken version``.
"""

from __future__ import annotations

import platform

import click

from harken import __version__


def version() -> str:
    """
    Return the version of harken.
    """
    return __version__


def version_line() -> str:
    """
    Return the versions of harken and of the Python that runs it, in one line.
    """
    return f"harken {version()} (Python {platform.python_version()})"


@click.command(name="version")
def command() -> None:
    """
    Print the version.
    """
    click.echo(version_line())
