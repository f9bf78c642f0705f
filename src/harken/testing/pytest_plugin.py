"""
Fixtures for pytest; installed with harken, loaded by pytest itself.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from harken import Bus
from harken.testing import Captured


@pytest.fixture
def harken_bus() -> Iterator[Bus]:
    """
    A bus that is closed after the test.
    """
    bus = Bus()
    yield bus
    bus.close()


@pytest.fixture
def captured(harken_bus: Bus) -> Captured:
    """
    What is published on `harken_bus` during the test.
    """
    heard = Captured()
    harken_bus.attach(heard)
    return heard
