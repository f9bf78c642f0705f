"""
What can be claimed of a report: each claim by itself, and what none of them says.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec

from harken.report.rows import Rows
from harken.report.text import moment, plural, shown
from harken.trail.entries import Problem
from harken.trail.findings import PARTS
from harken.trail.verify import Report

_MOST_FINDINGS = 100

_NOT_CHECKED = "The log was not verified when this page was made."

_MEANS = {"ok": "good", "tampered": "bad", "undecided": "doubt", "incomplete": "doubt"}


class Gaps(msgspec.Struct, kw_only=True):
    """
    What a report does not show.

    Attributes:
        left_out: Records beyond the limit of the report.

        problems: The first lines that could not be read; *unread* is how many there were.
    """

    left_out: int = 0
    unread: int = 0
    problems: Sequence[Problem] = ()


def claims(rows: Rows, gaps: Gaps, verification: Report | None, made: datetime) -> str:
    """
    Return the claims as HTML.
    """
    told = [_part(name, verification) for name in PARTS]
    told += [_shown(rows, gaps), _truncated(rows), _redacted(rows)]
    return (
        '<section class="claims" aria-labelledby="claims-title"><h2 id="claims-title">'
        f"What vouches for this report</h2><ul>{''.join(told)}</ul>"
        f"{_about(verification, made)}{_findings(verification, gaps)}</section>"
    )


def _claim(name: str, word: str, meaning: str, message: str) -> str:
    return (
        f'<li class="{meaning}" data-claim="{name}"><b>{name.capitalize()}</b>'
        f'<span class="word">{word}</span><p>{message}</p></li>'
    )


def _part(name: str, verification: Report | None) -> str:
    if verification is None:
        return _claim(name, "not checked", "none", _NOT_CHECKED)
    part = getattr(verification, name)
    word = "not asked for" if part.verdict == "none" else part.verdict
    meaning = _MEANS.get(part.verdict, "none")
    return _claim(name, word, meaning, shown(part.message))


def _shown(rows: Rows, gaps: Gaps) -> str:
    count = len(rows.lines)
    if gaps.left_out:
        message = (
            f"{count:,} of {count + gaps.left_out:,} records: the first ones, and the ends of what "
            "they began. The log has the others: harken query."
        )
        return _claim("shown", "cut", "doubt", message)
    if gaps.unread:
        message = f"{plural(count, 'record')}; {plural(gaps.unread, 'line')} could not be read."
        return _claim("shown", "incomplete", "doubt", message)
    message = f"{plural(count, 'record')}: all that the log has of what was asked for."
    return _claim("shown", "ok", "good", message)


def _truncated(rows: Rows) -> str:
    count = sum(bool(record.truncated) for record in rows.records)
    if not count:
        return _claim("truncated", "none", "good", "No value was cut when it was recorded.")
    message = f"{plural(count, 'record')} with values that were cut; size and digest are kept."
    return _claim("truncated", f"{count:,}", "doubt", message)


def _redacted(rows: Rows) -> str:
    count = sum(bool(record.redacted) for record in rows.records)
    if not count:
        return _claim("redacted", "none", "none", "Nothing was found that had to be hidden.")
    message = f"{plural(count, 'record')} with secrets that were hidden before they were recorded."
    return _claim("redacted", f"{count:,}", "none", message)


def _about(verification: Report | None, made: datetime) -> str:
    when = moment(made.timestamp())
    if verification is None:
        return (
            f'<p class="about">This page was made at {when} and is a copy; the log is the '
            "evidence.</p>"
        )
    path = shown(verification.path)
    sealed = (
        f"A key or an anchor vouches for everything up to line {verification.vouched_seq:,}."
        if verification.vouched_seq
        else "No key and no anchor vouches for it: whoever can write to the log could have "
        "written another one whose chain holds."
    )
    return (
        f'<p class="about">Verified at {when}: all {plural(verification.lines, "line")} of '
        f"<code>{path}</code>. {sealed} "
        "This page is a copy, and the log is the evidence: "
        f"<code>harken verify {path}</code>.</p>"
    )


def _findings(verification: Report | None, gaps: Gaps) -> str:
    told = [
        f"<li><b>{shown(finding.kind)}</b> {shown(finding.file)}"
        f"{f':{finding.line}' if finding.line else ''}: {shown(finding.message)}</li>"
        for finding in (() if verification is None else verification.findings)
    ]
    told += [f"<li><b>unread</b> {shown(str(problem))}</li>" for problem in gaps.problems]
    if not told:
        return ""
    omitted = 0 if verification is None else verification.omitted
    more = len(told) + omitted - _MOST_FINDINGS
    rest = f"<p>And {more:,} more: harken verify.</p>" if more > 0 else ""
    return (
        f"<details><summary>{plural(len(told) + omitted, 'finding')}</summary>"
        f"<ul>{''.join(told[:_MOST_FINDINGS])}</ul>{rest}</details>"
    )
