"""
Reports, as they are made: what they say, and what they leave out.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from base64 import b64encode
from datetime import UTC, datetime
from hashlib import sha256
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from tests.report.agents import RUN, write_agent_log, write_hostile_log
from tests.trail.corpora import BEGAN_NS, SECOND, Chain, event_id, write_corpus
from tests.trail.stories import Story, write_story

import harken.trail
from harken.report import html
from harken.report.text import duration, money, visible
from harken.trail import EVERYTHING, Filter

MADE = datetime(2026, 11, 21, 12, tzinfo=UTC)

ROW = (
    *("start", "end", "depth", "at", "took", "kind", "label", "note", "actor", "outcome"),
    *("tokens", "cost", "cause", "link", "missing", "decisive", "failed"),
)


def page_of(log: Path, where: Filter = EVERYTHING, *, verified: bool = True, **options: Any) -> str:
    with harken.trail.open(log) as trail:
        verification = harken.trail.verify(log) if verified else None
        return html(trail, where, verification=verification, made=MADE, **options)


def given_of(page: str) -> dict[str, Any]:
    """
    Return what the script of *page* is given.
    """
    found = re.search('<script type="application/json" id="data">(.*?)</script>', page)
    assert found is not None
    given: dict[str, Any] = json.loads(found[1])
    given["rows"] = [dict(zip(ROW, row, strict=True)) for row in given["rows"]]
    return given


def claims_of(page: str) -> dict[str, tuple[str, str]]:
    """
    Return the word and the message of each claim.
    """
    found = re.findall(r'data-claim="(\w+)".*?class="word">(.*?)</span><p>(.*?)</p>', page)
    return {name: (word, unescape(message)) for name, word, message in found}


def tiles_of(page: str) -> dict[str, str]:
    return dict(re.findall("<dt>(.*?)</dt><dd>(.*?)</dd>", page))


@pytest.fixture
def story(tmp_path: Path) -> Story:
    """
    A run with one within, decided upon by a person.
    """
    story = write_story(tmp_path / "audit.jsonl")
    story.write()
    return story


def test_policy(story: Story) -> None:
    """
    The security policy permits the style and the script of the page by their digests, and nothing
    else.
    """
    page = page_of(story.path)
    (style,) = re.findall("<style>(.*?)</style>", page, re.DOTALL)
    (script,) = re.findall("<script>(.*?)</script>", page, re.DOTALL)

    def digest(text: str) -> str:
        return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"

    (policy,) = re.findall('http-equiv="Content-Security-Policy" content="(.*?)"', page)
    assert (
        f"default-src 'none'; script-src {digest(script)}; style-src {digest(style)}; "
        "base-uri 'none'; form-action 'none'"
    ) == policy
    assert not re.search(r'\b(?:src|href|style|on\w+)="', page)


def test_same_log_same_page(story: Story) -> None:
    """
    Two reports of the same are the same, letter for letter.
    """
    assert page_of(story.path) == page_of(story.path)


def test_lines_are_verbatim(story: Story) -> None:
    """
    The page holds the lines of the log as they are stored.
    """
    given = given_of(page_of(story.path))

    assert story.path.read_text().splitlines() == given["lines"]


def test_claims(story: Story) -> None:
    """
    What vouches for the log is said part by part, and what it does not show.
    """
    page = page_of(story.path)
    claims = claims_of(page)

    assert ["chain", "seals", "completeness", "tail", "shown", "truncated", "redacted"] == list(
        claims
    )
    assert "ok" == claims["chain"][0]
    assert "not asked for" == claims["seals"][0]
    assert claims["shown"][1].endswith("all that the log has of what was asked for.")
    assert "Verified at 2026-11-21 12:00:00.000\u00a0UTC" in page
    assert "No key and no anchor vouches for it" in page


def test_claims_of_a_log_that_was_changed(story: Story) -> None:
    """
    The report of a log that was changed says so, and where.
    """
    story.path.write_bytes(story.path.read_bytes().replace(b"Mend it", b"Bend it"))

    page = page_of(story.path)

    assert "tampered" == claims_of(page)["chain"][0]
    assert "<b>altered</b>" in page


def test_claims_without_verification(story: Story) -> None:
    """
    Nothing is claimed of a log that was not verified.
    """
    page = page_of(story.path, verified=False)

    words = [word for word, _ in claims_of(page).values()]
    assert ["not checked"] * 4 == words[:4]
    assert "Verified at" not in page


def test_what_was_cut_and_hidden(tmp_path: Path) -> None:
    """
    Records with values that were cut, and with secrets that were hidden, are counted.
    """
    story = Story(tmp_path / "audit.jsonl")
    story.add("one", "text.emitted", truncated={"metadata.text": [9, "0" * 64]})
    story.add("two", "text.emitted", redacted={"key": 2})
    story.add("three", "text.emitted", redacted={"key": 1})
    story.write()

    claims = claims_of(page_of(story.path))

    assert ("1", "1 record with values that were cut; size and digest are kept.") == (
        claims["truncated"]
    )
    assert "2" == claims["redacted"][0]


def test_limit(tmp_path: Path) -> None:
    """
    Beyond the limit there are only the ends of what began before it, and the page says so.
    """
    log = tmp_path / "audit.jsonl"
    write_agent_log(log, 3)

    page = page_of(log, Filter(families=(RUN,)), limit=4)

    word, message = claims_of(page)["shown"]
    assert ("cut", "6 of 30 records: ") == (word, message[:17])
    rows = given_of(page)["rows"]
    assert [("run", "success"), ("llm", "success"), ("tool", "success")] == [
        (row["kind"], row["outcome"]) for row in rows
    ]


def test_lines_that_are_no_records(tmp_path: Path) -> None:
    """
    What cannot be read, or does not say when it happened, is left out, counted and named.
    """
    chain = Chain()
    good = chain.line(BEGAN_NS)
    lines = [
        *(good, b"not a record\n"),
        chain.line(BEGAN_NS, timestamp="yesterday"),
        chain.line(BEGAN_NS, occurred="2026-11-21T10:00:00"),
        chain.line(BEGAN_NS, metadata=5),
    ]
    log = tmp_path / "audit.jsonl"
    log.write_bytes(b"".join(lines))

    page = page_of(log)

    assert 1 == len(given_of(page)["lines"])
    assert ("incomplete", "1 record; 4 lines could not be read.") == claims_of(page)["shown"]
    assert "<b>unread</b>" in page


def test_causes(story: Story) -> None:
    """
    Each row has its recorded cause, an answer its question, and where the cause is not in the
    report, what it happened within.
    """
    rows = given_of(page_of(story.path))["rows"]
    seqs = {name: story.seqs[name] for name in ("tool", "policy", "ask", "answer")}
    place = {row["start"] + 1: number for number, row in enumerate(rows)}
    tool, policy, ask, answer = (rows[place[seqs[name]]] for name in seqs)

    assert ("run", "because") == (rows[tool["cause"]]["kind"], tool["link"])
    assert (place[seqs["tool"]], "because") == (policy["cause"], policy["link"])
    assert (place[seqs["tool"]], "because") == (ask["cause"], ask["link"])
    assert (place[seqs["ask"]], "answers") == (answer["cause"], answer["link"])
    call = next(row for row in rows if row["kind"] == "llm")
    assert (event_id(BEGAN_NS, 999), "within") == (call["missing"], call["link"])
    assert "run" == rows[call["cause"]]["kind"]


def test_same_causes_as_why(tmp_path: Path) -> None:
    """
    The chain of each row is that of `Trail.why()`, which ends with the run as what is no cause.
    """
    demo = [sys.executable, "-m", "harken", "demo", "--out", str(tmp_path)]
    subprocess.run(demo, check=True, capture_output=True)
    log = tmp_path / "audit.jsonl"
    given = given_of(page_of(log))
    rows = given["rows"]
    ids = [json.loads(line)["id"] for line in given["lines"]]
    place = {ids[row[end]]: n for n, row in enumerate(rows) for end in ("end", "start") if row[end]}

    def chain(number: int) -> list[int]:
        cause = rows[number]["cause"]
        return [number] if cause is None else [number, *chain(cause)]

    with harken.trail.open(log) as trail:
        for number, row in enumerate(rows):
            why = trail.why(ids[row["start"]])
            told = [place[step.record.id] for step in why.steps if step.link != "ends"]
            if why.stopped == "missing" and why.run is not None:
                told.append(place[why.run.id])
            assert chain(number) == told, row


def test_causes_in_a_circle_or_nowhere(tmp_path: Path) -> None:
    """
    What is its own cause, and what has one that is not there, is shown like everything else.
    """
    story = Story(tmp_path / "audit.jsonl")
    own = event_id(BEGAN_NS + SECOND, 1)
    story.add("own", "text.emitted", causation_id=own)
    story.add("orphan", "text.emitted", causation_id="nobody")
    story.write()

    first, second = given_of(page_of(story.path))["rows"]

    assert (0, "because", None) == (first["cause"], first["link"], first["missing"])
    assert (None, None, "nobody") == (second["cause"], second["link"], second["missing"])


def test_decisions(story: Story) -> None:
    """
    What was decided and what went wrong is in a table that needs no script; what went as usual
    is not.
    """
    page = page_of(story.path)
    table = page.partition('class="decisions"')[2].partition("</section>")[0]

    assert "approval.denied" in table
    assert "user:ana" in table
    assert "escalate" in table
    assert "<b>llm</b>" not in table


def test_figures(tmp_path: Path) -> None:
    """
    The figures are those of the run's own summary.
    """
    log = tmp_path / "audit.jsonl"
    write_agent_log(log, 10)
    with harken.trail.open(log) as trail:
        (summary,) = trail.runs()

    tiles = tiles_of(page_of(log))

    assert {
        "Events": f"{summary.events}",
        "Model calls": f"{summary.llm_calls}",
        "Tool calls": f"{summary.tool_calls}",
        "Errors": f"{summary.errors}",
        "Denied": f"{summary.denied}",
        "Tokens": f"{summary.input_tokens + summary.output_tokens:,}",
        "Cost": f"${summary.cost_usd:.4f}",
    } == {name: value for name, value in tiles.items() if name != "Duration"}


def test_figures_that_a_run_tells(tmp_path: Path) -> None:
    """
    Of a run whose calls of models are not on record, the figures are those that it tells itself.
    """
    story = Story(tmp_path / "audit.jsonl")
    used = {"input_tokens": 30, "output_tokens": 12, "cost_usd": 2.5, "duration_ms": 1000}
    story.add("run", "run.started", outcome=None, run_id="r", span_id="a" * 16)
    story.add("end", "run.completed", started_event_id="run", run_id="r", metadata=used)
    story.add("other", "run.started", outcome=None, run_id="q", span_id="b" * 16)
    story.write()

    page = page_of(story.path)

    tiles = tiles_of(page)
    assert ("42", "$2.50", "1") == (
        tiles["Tokens, as the run says"],
        tiles["Cost, as the run says"],
        tiles["Not ended"],
    )
    assert "<h1><bdi>2 runs</bdi></h1>" in page
    assert "<svg" not in page


def test_charts(tmp_path: Path) -> None:
    """
    What was used is drawn over time and never goes down, however long the run.
    """
    log = tmp_path / "audit.jsonl"
    write_agent_log(log, 1100)

    page = page_of(log)

    cost, tokens = re.findall('<polyline points="(.*?)"', page)
    for line in (cost, tokens):
        points = [tuple(map(float, point.split(","))) for point in line.split()]
        assert len(points) < 1100
        assert sorted(points, key=lambda point: point[0]) == points
        assert sorted((y for _, y in points), reverse=True) == [y for _, y in points]
        assert ((0, 100), 4) == (points[0], points[-1][1])


def test_title(story: Story, tmp_path: Path) -> None:
    """
    The title is what the run was to do, its name where that is not on record, or what is given.
    """

    def title(page: str) -> str:
        (found,) = re.findall("<title>(.*?)</title>", page)
        return str(found)

    nameless = Story(tmp_path / "other.jsonl").add("run", "run.started", outcome=None, run_id="r-7")
    nameless.write()

    assert "Mend it" == title(page_of(story.path, Filter(runs=("r1",))))
    assert "Run r-7" == title(page_of(nameless.path))
    assert "1 event" == title(page_of(story.path, Filter(types=("approval.denied",))))
    assert "a &lt;b&gt; \\u202e" == title(page_of(story.path, title="a <b> \u202e"))


def test_hostile_text_is_inert(tmp_path: Path) -> None:
    """
    No text of a log ends an element or is one, and what cannot be seen is shown as its code.
    """
    log = tmp_path / "audit.jsonl"
    write_hostile_log(log)

    page = page_of(log)

    assert 2 == page.count("</script>")
    assert "<img" not in page
    assert "<!--" not in page
    assert not {"\x1b", "\u202e"} & set(page)


def test_absurd_numbers(tmp_path: Path) -> None:
    """
    A number of any size is no reason to make no report.
    """
    story = Story(tmp_path / "audit.jsonl")
    huge = int("9" * 400)
    for number in (huge, -5, 1e300, 1.7e308, -1.7e308, 0):
        data = {"duration_ms": number, "input_tokens": number, "cost_usd": number}
        story.add("call", "llm.completed", started_event_id="x", metadata=data)
    story.add("word", "llm.completed", started_event_id="x", metadata={"duration_ms": "long"})
    story.write()

    page = page_of(story.path)

    given = given_of(page)
    assert [None] * 5 + [0, 0] == [row["took"] for row in given["rows"]]
    assert "Infinity" not in json.dumps(given)


def test_corpus(tmp_path: Path) -> None:
    """
    Whatever a log in several files holds, each record that can be read is in the report once.
    """
    log, records = write_corpus(tmp_path, 400)

    given = given_of(page_of(log, verified=False))

    assert [record["seq"] for record in records] == [
        json.loads(line)["seq"] for line in given["lines"]
    ]
    shown = [row[end] for row in given["rows"] for end in ("start", "end") if row[end] is not None]
    assert sorted(set(shown)) == sorted(shown)
    assert list(range(len(records))) == sorted(shown)


def test_plain_table_is_bounded(tmp_path: Path) -> None:
    """
    The table for readers without a script ends before it makes the page slow, and says so; so
    does the one of decisions.
    """
    story = Story(tmp_path / "audit.jsonl")
    for number in range(1200):
        story.add(f"{number}", "tool.failed", outcome="failure", started_event_id=f"{number}s")
    story.write()

    page = page_of(story.path)

    assert 500 + 1000 == page.count("<tr data-row")
    assert "And 700 more, which the timeline below has." in page
    assert "And 200 more; they are in the log" in page


@pytest.mark.parametrize(
    ("milliseconds", "expected"),
    [
        (0, "0 ms"),
        (0.25, "0.2 ms"),
        (12.4, "12 ms"),
        (999, "999 ms"),
        (1500, "1.50 s"),
        (61_000, "1m 01s"),
        (3_661_000, "1h 01m 01s"),
    ],
)
def test_durations(milliseconds: float, expected: str) -> None:
    """
    A duration has as many digits as matter.
    """
    assert expected == duration(milliseconds).replace("\u00a0", " ")


def test_words() -> None:
    """
    Small amounts keep their digits, and characters that cannot be seen become their codes.
    """
    assert ("$0.0123", "$1,234.50") == (money(0.0123), money(1234.5))
    assert "é\\n\\x9b\\u2066\\ud800 \\xa0" == visible("é\n\x9b\u2066\ud800 \u00a0")
