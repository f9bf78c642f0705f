"""
Apps made with Typer.
"""

from __future__ import annotations

from typing import cast

from typer import Typer
from typer.main import get_command


def command_of(app: object) -> object:
    """
    Return the command, in the manner of click, that a Typer app is.
    """
    return get_command(cast("Typer", app))
