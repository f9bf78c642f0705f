"""
What tests of adapters share: a bus that is heard, and the laws of its runs, checked at the end.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.adapters.laws import check_runs

from harken import Bus
from harken.adapters._runs import contained
from harken.testing import Captured, capture


@pytest.fixture(autouse=True)
def errors_are_told_again() -> None:
    """
    Let each test find in the log what is told once in a process.
    """
    contained.told.clear()


@pytest.fixture
def bus() -> Iterator[Bus]:
    """
    A bus that is closed after the test.
    """
    bus = Bus(capture_content={"arguments", "result", "text", "thinking"})
    yield bus
    bus.close()


@pytest.fixture
def heard(bus: Bus) -> Iterator[Captured]:
    """
    What is published on the bus; every operation of it must have one end.
    """
    with capture(bus) as captured:
        yield captured
    check_runs(captured)


@pytest.fixture
def broken_bus(bus: Bus) -> Bus:
    """
    A bus with a required subscriber that fails.
    """

    def broken(envelope: object) -> None:
        raise OSError("disk full")

    bus.subscribe(broken, required=True)
    return bus
