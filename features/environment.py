"""
What every scenario begins with: an empty folder, a clean environment, and nothing that runs.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp

from agent import ending
from behave import register_type
from behave.model import Scenario
from scene import Scene, command, file_name, names, program, variable, words

import harken

OURS = ("HARKEN_", "OTEL_", "PROMETHEUS_", "XDG_")
CARRIED = {"BAGGAGE", "NO_COLOR", "TOOL_TRACE_ID", "TRACEPARENT", "TRACESTATE"}

# The servers of the tests are ours, too; `behave` does not look for them where it is started.
sys.path.append(str(Path(__file__).parents[1]))

register_type(
    Command=command,
    Ending=ending,
    Files=file_name,
    Names=names,
    Program=program,
    Variable=variable,
    Words=words,
)


def before_all(context: Scene) -> None:
    """
    Take away what the shell of whoever runs the features says to harken.
    """
    for name in list(os.environ):
        if name.startswith(OURS) or name in CARRIED:
            del os.environ[name]


def before_scenario(context: Scene, scenario: Scenario) -> None:
    """
    Begin in an empty folder, with an empty home.
    """
    # What is cleaned up first stands last.
    context.add_cleanup(_restore_environment, dict(os.environ))
    context.folder = Path(mkdtemp(prefix="harken-feature-")).resolve()
    context.add_cleanup(rmtree, context.folder)
    context.add_cleanup(os.chdir, os.getcwd())
    os.chdir(context.folder)
    os.environ["HOME"] = str(context.folder / "home")
    context.add_cleanup(harken.register_trace_source, None)
    context.error = None


def _restore_environment(environ: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environ)
