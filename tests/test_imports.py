"""
What an import loads, and how long it takes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

RunPython = Callable[..., subprocess.CompletedProcess[str]]

# Each sink, and the libraries that no other sink has a use for.
SINKS: dict[str, set[str]] = {
    "audit": set(),
    "otel": {"opentelemetry"},
    "prometheus": {"prometheus_client"},
    "structlog": {"structlog"},
}

# 80 ms where asyncio and logging take 36 ms, and some room for a busy machine.
LONGEST = 2.5

LOADED_BY = """
import sys
before = set(sys.modules)
{statement}
import json
print(json.dumps(sorted(set(sys.modules) - before)))
"""

SECONDS_FOR = """
import time
start = time.process_time()
{statement}
print(time.process_time() - start)
"""


def loaded_by(run_python: RunPython, statement: str) -> set[str]:
    """
    Which modules *statement* loads in a fresh interpreter.
    """
    return set(json.loads(run_python(LOADED_BY.format(statement=statement)).stdout))


def seconds(run_python: RunPython, statement: str, compiled: Path) -> float:
    """
    How much processor time *statement* takes in a fresh interpreter that nobody measures coverage
    in, and that finds what it has to compile in the folder *compiled*, but for the first time.
    """
    env: dict[str, str | None] = {
        "COVERAGE_PROCESS_CONFIG": None,
        "COVERAGE_PROCESS_START": None,
        "PYTHONDONTWRITEBYTECODE": None,
        "PYTHONPYCACHEPREFIX": str(compiled),
    }
    return float(run_python(SECONDS_FOR.format(statement=statement), env=env).stdout)


def test_harken_loads_no_library_of_a_sink(run_python: RunPython) -> None:
    """
    `import harken` loads blinker, msgspec and the standard library, nothing else.
    """
    # msgspec loads typing_extensions where something else has installed it.
    known = sys.stdlib_module_names | {"typing_extensions"}

    loaded = {name.partition(".")[0] for name in loaded_by(run_python, "import harken")}

    assert {"blinker", "harken", "msgspec"} == loaded - known


@pytest.mark.parametrize("sink", SINKS)
def test_a_sink_loads_no_other(run_python: RunPython, sink: str) -> None:
    """
    A sink loads no other sink, and no library that only another sink writes with.
    """
    of_others = {
        name
        for other, libraries in SINKS.items()
        if other != sink
        for name in {f"harken.sinks.{other}", *libraries}
    }

    loaded = loaded_by(run_python, f"import harken.sinks.{sink}")

    assert (True, set()) == (f"harken.sinks.{sink}" in loaded, of_others & loaded)


def test_harken_is_imported_quickly(run_python: RunPython, tmp_path: Path) -> None:
    """
    `import harken` takes 80 ms where asyncio and logging take 36 ms, or less.
    """
    yardstick, harken = zip(
        *(
            [
                seconds(run_python, f"import {modules}", tmp_path)
                for modules in ("asyncio, logging", "harken")
            ]
            for _ in range(6)
        ),
        strict=True,
    )

    print(f"import harken: {min(harken) * 1000:.0f} ms; bar: 80 ms")
    assert LONGEST > min(harken) / min(yardstick)
