"""
The page: what is shown without a script, and what the script of the page is given.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from hashlib import sha256
from importlib import metadata, resources

import msgspec

from harken.report.claims import Gaps, claims
from harken.report.figures import Figures, charts, figures_of
from harken.report.rows import Row, Rows
from harken.report.text import duration, moment, money, plural, shown, visible
from harken.trail.entries import Entry, Record
from harken.trail.filters import EVERYTHING, Filter
from harken.trail.log import Trail
from harken.trail.verify import Report

LIMIT = 20_000
"""Records of a report, unless another limit is given."""

_MOST_DECISIONS = 500

# Rows of the table for readers without a script; more make a page slow that does not need them.
_MOST_PLAIN = 1000


def html(
    trail: Trail,
    where: Filter = EVERYTHING,
    *,
    verification: Report | None = None,
    title: str | None = None,
    limit: int = LIMIT,
    made: datetime | None = None,
) -> str:
    """
    Return the records that are wanted as one page of HTML.

    All of them are held in memory. What the page cannot show, it says: records beyond the limit,
    and lines that are in ``Trail.problems``.

    Args:
        where: What is wanted. For a run with all that it started itself, this is its family.

        verification: What was found about the log; without it, the page claims nothing.

        title: By default what the run was to do.

        limit: Records that are shown, counted from the first one; of what they begin, the ends are
            shown too.

        made: When the page was made; by default now.
    """
    reading = _Reading(trail, where, limit)
    rows = Rows(reading)
    gaps = Gaps(
        left_out=reading.left_out,
        unread=trail.problems.count,
        problems=trail.problems.first,
    )
    figures = figures_of(rows)
    head = claims(rows, gaps, verification, made or datetime.now(UTC))
    return _page(visible(title or _title(rows)), rows, figures, head)


class _Reading:
    """
    The first wanted records, with the ends of what they began, and how many more there were.
    """

    def __init__(self, trail: Trail, where: Filter, limit: int) -> None:
        self._trail = trail
        self._where = where
        self._limit = limit
        self._open: set[str | None] = set()
        self.left_out = 0

    def __iter__(self) -> Iterator[Entry]:
        count = 0
        for entry in self._trail.entries(self._where):
            record = self._trail.read(entry)
            if record is None:
                continue
            if count < self._limit or record.started_event_id in self._open:
                count += 1
                self._note(record)
                yield entry
            else:
                self.left_out += 1

    def _note(self, record: Record) -> None:
        if record.is_start and record.id is not None:
            self._open.add(record.id)
        elif record.is_end:
            self._open.discard(record.started_event_id)


def _runs(rows: Rows) -> list[tuple[Row, Record]]:
    """
    Return the runs that are part of no other, each with its start.
    """
    return [
        (row, node.first)
        for row, node in zip(rows.rows, rows.nodes, strict=True)
        if not row.depth and node.first.event_type == "run.started"
    ]


def _title(rows: Rows) -> str:
    runs = _runs(rows)
    if len(runs) != 1:
        return plural(len(runs), "run") if runs else plural(len(rows.rows), "event")
    start = runs[0][1]
    task = start.metadata.get("prompt") or start.metadata.get("task_type")
    return task if isinstance(task, str) else f"Run {start.run_id}"


def _page(title: str, rows: Rows, figures: Figures, head: str) -> str:
    style, script = _asset("page.css"), _asset("page.js")
    policy = (
        f"default-src 'none'; script-src '{_digest(script)}'; style-src '{_digest(style)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    # A page is read from its begin: what needs no script comes first.
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<meta name="generator" content="harken {_version()}">
<title>{shown(title)}</title>
<style>{style}</style>
</head>
<body>
{_header(title, rows)}
<main>
{head}
{_tiles(rows, figures)}
{charts(figures.points, rows.length)}
{_decisions(rows)}
{_WORKBENCH}
{_plain(rows)}
</main>
<footer>Made by harken {_version()}. What the agent and its tools said is shown as they said it, and
is not to be trusted; characters that cannot be seen are shown as their codes.</footer>
<script type="application/json" id="data">{_data(rows)}</script>
<script>{script}</script>
</body>
</html>
"""


def _asset(name: str) -> str:
    return (resources.files("harken.report") / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return f"sha256-{b64encode(sha256(text.encode()).digest()).decode()}"


def _version() -> str:
    try:
        return metadata.version("harken")
    except metadata.PackageNotFoundError:  # run from a source tree
        return "0"


def _data(rows: Rows) -> str:
    """
    Return what the script is given, such that nothing in it can end its element.
    """
    given = {
        "began": rows.began,
        "length": rows.length,
        "rows": msgspec.to_builtins(rows.rows),
        "lines": rows.lines,
    }
    return json.dumps(given, separators=(",", ":")).replace("<", "\\u003c")


def _header(title: str, rows: Rows) -> str:
    runs = _runs(rows)
    said: list[str] = []
    if len(runs) == 1:
        row, start = runs[0]
        said.append(_outcome(row))
        said.append(f"run <code>{shown(start.run_id or '')}</code>")
        said.append(f"by <bdi>{shown(start.actor or 'nobody who is named')}</bdi>")
    if rows.rows:
        until = moment(rows.began + rows.length / 1000)
        said.append(f"{moment(rows.began)} to {until}")
    parts = "".join(f"<span>{part}</span>" for part in said)
    return (
        f'<header><h1><bdi>{shown(title)}</bdi></h1><p class="facts">{parts}</p>'
        '<button type="button" id="theme" hidden>Theme: auto</button></header>'
    )


def _tiles(rows: Rows, figures: Figures) -> str:
    by = ", as the run says" if figures.told else ""
    tiles = [
        ("Duration", duration(rows.length), ""),
        ("Events", f"{figures.events:,}", ""),
        ("Model calls", f"{figures.model_calls:,}", ""),
        ("Tool calls", f"{figures.tool_calls:,}", ""),
        ("Errors", f"{figures.errors:,}", "bad" if figures.errors else ""),
        ("Denied", f"{figures.denied:,}", "doubt" if figures.denied else ""),
        (f"Tokens{by}", f"{figures.tokens:,.0f}", ""),
        (f"Cost{by}", money(figures.cost) if figures.cost else "$0", ""),
    ]
    if figures.unclosed:
        tiles.insert(6, ("Not ended", f"{figures.unclosed:,}", "doubt"))
    told = "".join(
        f'<div class="{meaning}"><dt>{name}</dt><dd>{value}</dd></div>'
        for name, value, meaning in tiles
    )
    return f'<dl class="tiles">{told}</dl>'


def _outcome(row: Row) -> str:
    return f'<span class="outcome {_meaning(row)}">{row_outcome(row)}</span>'


def row_outcome(row: Row) -> str:
    """
    Return how a row ended, as HTML.
    """
    return shown("not ended" if row.outcome == "unclosed" else row.outcome or "—")


def _meaning(row: Row) -> str:
    if row.outcome == "success":
        return "good"
    return "bad" if row.failed and row.outcome not in {"denied", "unclosed"} else "doubt"


def _table(rows: Rows, chosen: Iterable[tuple[int, Row]]) -> str:
    told = "".join(
        f'<tr data-row="{place}" class="{_meaning(row)}"><td class="time">'
        f"{_after(row.at)}</td><td><b>{shown(row.kind)}</b> <bdi>{shown(row.label)}</bdi></td>"
        f"<td>{_outcome(row)}</td><td><bdi>{shown(row.actor)}</bdi></td>"
        f'<td class="note">{shown(row.note)}</td>'
        f'<td class="number">{rows.records[row.start].seq}</td></tr>\n'
        for place, row in chosen
    )
    return (
        '<div class="wide"><table><thead><tr><th scope="col">After</th><th scope="col">What</th>'
        '<th scope="col">Outcome</th><th scope="col">Who</th><th scope="col">Details</th>'
        f'<th scope="col">Line</th></tr></thead><tbody>{told}</tbody></table></div>'
    )


def _after(milliseconds: float) -> str:
    return f"+{duration(milliseconds)}"


def _decisions(rows: Rows) -> str:
    chosen = [(place, row) for place, row in enumerate(rows.rows) if row.decisive]
    if not chosen:
        body = '<p class="empty">On record, nothing was decided and nothing went wrong.</p>'
    else:
        body = _table(rows, chosen[:_MOST_DECISIONS])
    more = len(chosen) - _MOST_DECISIONS
    if more > 0:
        body += f'<p class="empty">And {more:,} more, which the timeline below has.</p>'
    return (
        '<section class="decisions" aria-labelledby="decisions-title">'
        f'<h2 id="decisions-title">Decisions, refusals and errors '
        f'<span class="count">{len(chosen):,}</span></h2>{body}</section>'
    )


def _plain(rows: Rows) -> str:
    chosen = list(enumerate(rows.rows))[:_MOST_PLAIN]
    more = len(rows.rows) - len(chosen)
    rest = f"<p>And {more:,} more; they are in the log, and shown with a script.</p>"
    return (
        "<noscript><section><h2>Everything, in order</h2><p>The timeline, the search and the "
        f"reasons need JavaScript.</p>{_table(rows, chosen)}{rest if more > 0 else ''}"
        "</section></noscript>"
    )


_WORKBENCH = """<section class="timeline" aria-labelledby="timeline-title" hidden>
<h2 id="timeline-title">Timeline <span class="count" id="count"></span></h2>
<div class="toolbar">
<input type="search" id="search" placeholder="Search all text (press /)"
 aria-label="Search all text" autocomplete="off" spellcheck="false">
<div class="choices" role="group" aria-label="What is shown">
<button type="button" data-show="all" aria-pressed="true">All</button>
<button type="button" data-show="decisive" aria-pressed="false">Decisions</button>
<button type="button" data-show="failed" aria-pressed="false">Problems</button>
</div>
<div class="choices">
<button type="button" id="fold">Collapse all</button>
<button type="button" id="zoom" aria-pressed="false">Zoom in</button>
</div>
<details class="keys"><summary>Keys</summary><p><kbd>↑</kbd> <kbd>↓</kbd> move,
<kbd>→</kbd> <kbd>←</kbd> open and close, <kbd>n</kbd> <kbd>p</kbd> next and previous problem,
<kbd>w</kbd> to its cause, <kbd>z</kbd> zoom, <kbd>/</kbd> search, <kbd>Esc</kbd> all again</p>
</details>
</div>
<div class="bench">
<div class="left">
<div class="axis" aria-hidden="true"><span class="name">What</span><div id="ticks"></div>
<span class="figure">Took</span><span class="figure more">Tokens</span>
<span class="figure more">Cost</span></div>
<div id="list" role="treegrid" tabindex="0" aria-labelledby="timeline-title"
 aria-readonly="true"><div id="inner" role="rowgroup"></div></div>
</div>
<aside id="detail" aria-label="The chosen event"></aside>
</div>
</section>"""
