"""
What the clerk publishes.
"""

from __future__ import annotations

import pytest
from clerk import Clerk

from harken.catalog import RunCompleted, ToolCompleted, ToolDenied, ToolFailed
from harken.testing import assert_published

PLAN = [("search", {"query": "open invoices"}), ("pay", {"invoice": "i-17"})]


def search(query: str) -> str:
    return f"found {query}"


def pay(invoice: str) -> str:
    raise ConnectionError("the bank is closed")


@pytest.fixture
def clerk(harken_bus):
    return Clerk(harken_bus, {"search": search, "pay": pay}, forbidden=["pay"])


def test_a_forbidden_tool_is_denied(clerk, captured):
    """
    A tool that is not allowed is not run, and the refusal names its rule.
    """
    assert clerk.call("pay", {"invoice": "i-17"}) is None

    assert_published(captured, ToolDenied, resource="tool:pay", rule="tools", count=1)
    assert_published(captured, ToolCompleted, count=0)


def test_an_error_is_a_failure(harken_bus, captured):
    """
    What a tool raises is on record, and reaches whoever called.
    """
    with pytest.raises(ConnectionError):
        Clerk(harken_bus, {"pay": pay}).call("pay", {"invoice": "i-17"})

    assert_published(captured, ToolFailed, error_type="ConnectionError", outcome="failure")


def test_a_whole_run(clerk, captured, harken_snapshot):
    """
    A run is the same as when somebody last looked at it.
    """
    clerk.run(PLAN, run_id="r-1")

    assert_published(captured, RunCompleted, run_id="r-1", actor="agent:clerk")
    harken_snapshot(captured)
