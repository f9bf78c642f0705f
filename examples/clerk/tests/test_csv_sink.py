"""
The sink, put to what the bus expects of any.
"""

from __future__ import annotations

import pytest
from clerk import Clerk
from csv_sink import CsvSink

from harken.testing.sink_conformance import CHECKS


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_it_conforms(check, tmp_path):
    """
    It takes whatever an agent may publish, from any thread.
    """
    check(lambda: CsvSink(tmp_path / "calls.csv"))


def test_what_it_writes(harken_bus, tmp_path):
    """
    There is a line for each call, with what was called and how it ended.
    """
    harken_bus.attach(CsvSink(tmp_path / "calls.csv"))
    Clerk(harken_bus, {"search": dict}).call("search", {})
    harken_bus.close()

    assert "tool:search,success," in (tmp_path / "calls.csv").read_text()
