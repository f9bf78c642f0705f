"""
Times and conditions as people write them.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone, tzinfo

import pytest

from harken.trail import Condition, FilterError
from harken.trail.times import to_ns

NOW = datetime(2026, 11, 21, 12, 30, tzinfo=UTC)  # a Saturday
EAST = timezone(timedelta(hours=5))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90s", "2026-11-21T12:28:30Z"),
        ("15m", "2026-11-21T12:15:00Z"),
        ("1h30m", "2026-11-21T11:00:00Z"),
        ("1.5h", "2026-11-21T11:00:00Z"),
        ("-2d", "2026-11-19T12:30:00Z"),
        ("1w ago", "2026-11-14T12:30:00Z"),
        ("now", "2026-11-21T12:30:00Z"),
        ("today", "2026-11-21T00:00:00Z"),
        (" Yesterday ", "2026-11-20T00:00:00Z"),
        ("saturday", "2026-11-21T00:00:00Z"),
        ("sunday", "2026-11-15T00:00:00Z"),
        ("2026-11-20", "2026-11-20T00:00:00Z"),
        ("2026-11-20 10:00", "2026-11-20T10:00:00Z"),
        ("2026-11-20t10:00:00.25z", "2026-11-20T10:00:00.25Z"),
        ("2026-11-20T10:00+02:00", "2026-11-20T08:00:00Z"),
        ("@1795255200", "2026-11-21T10:00:00Z"),
        ("@1795255200.5", "2026-11-21T10:00:00.5Z"),
    ],
)
def test_times(text: str, expected: str) -> None:
    """
    Each form says what a person means by it.
    """
    assert round(datetime.fromisoformat(expected).timestamp() * 1e6) == to_ns(text, NOW, UTC) / 1000


@pytest.mark.parametrize(
    ("text", "zone", "expected"),
    [
        ("today", EAST, "2026-11-20T19:00:00Z"),
        ("2026-11-20", EAST, "2026-11-19T19:00:00Z"),
        ("now", EAST, "2026-11-21T12:30:00Z"),
    ],
)
def test_days_have_a_zone(text: str, zone: tzinfo, expected: str) -> None:
    """
    A day begins at midnight where the reader is.
    """
    assert (
        round(datetime.fromisoformat(expected).timestamp() * 1e6) == to_ns(text, NOW, zone) / 1000
    )


def test_zone_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Without a zone it is that of the machine.
    """
    import time

    monkeypatch.setenv("TZ", "Asia/Karachi")
    time.tzset()
    try:
        assert to_ns("today", NOW, EAST) == to_ns("today", NOW)
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("text", ["", "soon", "1y", "h", "2026-13-01", "@", "@-1", "99999999999w"])
def test_no_times(text: str) -> None:
    """
    What is no time is refused with the forms there are.
    """
    with pytest.raises(FilterError, match="is no time; use 90s"):
        to_ns(text, NOW, UTC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("metadata.cost_usd>0.01", Condition("metadata.cost_usd", ">", 0.01)),
        ("data.n >= 3", Condition("data.n", ">=", 3)),
        ("outcome!=success", Condition("outcome", "!=", "success")),
        ("data.ok=true", Condition("data.ok", "=", True)),
        ("data.ok=null", Condition("data.ok", "=", None)),
        ('data.id="5"', Condition("data.id", "=", "5")),
        ("data.url=http://a?b=c", Condition("data.url", "=", "http://a?b=c")),
        ("data.text~^a.*=b$", Condition("data.text", "~", "^a.*=b$")),
        ("data.text=", Condition("data.text", "=", "")),
        ("data.text~=b", Condition("data.text", "~", "=b")),
        ('data.text="=b"', Condition("data.text", "=", "=b")),
    ],
)
def test_conditions(text: str, expected: Condition) -> None:
    """
    A value that is JSON is that, any other a text.
    """
    assert expected == Condition.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        *("", "outcome", "=5", "data.text~(", "data.x=[1]", "data.x={}"),
        *("outcome==denied", "seq=>79", "seq<>5", "seq> >5"),
    ],
)
def test_no_conditions(text: str) -> None:
    """
    What is no condition is refused.
    """
    with pytest.raises(FilterError):
        Condition.parse(text)
