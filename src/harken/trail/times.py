"""
Times as people write them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, time, timedelta, tzinfo

from harken.trail.filters import FilterError

SECONDS: Mapping[str, int] = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
"""The units of what is ago."""

DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_AGO = re.compile(r"-?((?:\d+(?:\.\d+)?[smhdw])+)(?: ago)?")
_PART = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")
_AT = re.compile(r"@(\d{1,11})(?:\.(\d{1,9}))?")


def to_ns(text: str, now: datetime, zone: tzinfo | None = None) -> int:
    """
    Return the time that *text* says, in nanoseconds since 1970-01-01 UTC.

    Args:
        text:
            How long ago (``90s``, ``15m``, ``1h30m``, ``2d``, ``1w``), ``now``, ``today``,
            ``yesterday``, the name of a day (the last one, from midnight), RFC 3339 or its date
            alone, or ``@`` and the seconds since 1970.

        now: Aware.

        zone: Of days, and of times without one; by default that of this machine.

    Raises:
        FilterError: It says none of these.
    """
    said = text.strip().lower()
    epoch = _AT.fullmatch(said)
    if epoch is not None:
        return int(epoch[1]) * 1_000_000_000 + int((epoch[2] or "").ljust(9, "0"))
    try:
        return _ns(_meant(said, now, zone))
    except (ValueError, OverflowError) as error:
        raise FilterError(
            f"{text!r} is no time; use 90s, 15m, 2h, 3d, today, yesterday, friday, "
            "2026-11-21T10:00, @1795255440, run:RUN or id:EVENT"
        ) from error


def _meant(said: str, now: datetime, zone: tzinfo | None) -> datetime:
    ago = _AGO.fullmatch(said)
    if ago is not None:
        parts = _PART.findall(ago[1])
        return now - timedelta(seconds=sum(float(count) * SECONDS[unit] for count, unit in parts))
    if said == "now":
        return now
    today = now.astimezone(zone).date()
    if said in {"today", "yesterday", *DAYS}:
        back = {"today": 0, "yesterday": 1}.get(said)
        if back is None:
            back = (today.weekday() - DAYS.index(said)) % 7
        return _local(datetime.combine(today - timedelta(days=back), time()), zone)
    found = datetime.fromisoformat(said.upper())
    return found if found.tzinfo is not None else _local(found, zone)


def _local(naive: datetime, zone: tzinfo | None) -> datetime:
    # Without a zone, astimezone() takes a naive time for one of this machine.
    return naive.astimezone() if zone is None else naive.replace(tzinfo=zone)


def _ns(moment: datetime) -> int:
    return (moment.astimezone(UTC) - _EPOCH) // timedelta(microseconds=1) * 1000


def ns_of(timestamp: str) -> int:
    """
    Return an RFC 3339 timestamp in nanoseconds since 1970-01-01 UTC.

    Raises:
        ValueError: It is none.
    """
    return _ns(datetime.fromisoformat(timestamp))
