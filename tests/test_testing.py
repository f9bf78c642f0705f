"""
The kit for tests of code on a bus.
"""

from __future__ import annotations

import subprocess
import textwrap
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from harken.catalog import PrCreated, ToolStarted
from harken.testing import START, FixedClock, capture, fixed_bus


def test_fixed_clock() -> None:
    """
    Time passes when it is told to; only the wall clock steps back.
    """
    bus = fixed_bus()
    clock = FixedClock()
    with capture(bus) as heard:
        bus.publish(PrCreated(url="u"))
    clock.advance(2.5)
    forward = clock.monotonic_ns()
    clock.advance(-1)

    assert START == heard.envelopes[0].time
    assert (forward, int(1.5e9)) == (
        clock.monotonic_ns(),
        clock.time_ns() - int(START.timestamp()) * 10**9,
    )


def test_fixed_ids() -> None:
    """
    Ids can be written down.
    """
    bus = fixed_bus()
    with capture(bus) as heard, bus.operation(ToolStarted(tool_name="a")):
        pass

    start, end = heard.envelopes
    assert "019b7ca9-8c88-7000-9e38-7bbc834f821c" == start.id
    assert ("a64083c48b578a24", start.span_id) == (start.span_id, end.span_id)
    assert START + timedelta(0) == end.time


def test_pytest_fixtures(
    tmp_path: Path, run_python: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """
    Whoever installs harken has its fixtures in pytest.
    """
    (tmp_path / "test_agent.py").write_text(
        textwrap.dedent("""
            from harken.catalog import PrCreated

            def test_agent(harken_bus, captured):
                harken_bus.publish(PrCreated(url="u"))
                assert captured.names == ["pr.created"]
        """)
    )
    code = "import pytest, sys; sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', '.']))"

    assert "1 passed" in run_python(code).stdout
