"""
What a filter finds: the same as somebody who reads every line, as jq, and as DuckDB.
"""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from tests.trail.corpora import (
    ACTORS,
    BEGAN_NS,
    JUNK,
    OUTCOMES,
    SECOND,
    TEXTS,
    TYPES,
    Chain,
    event_id,
    work,
    write_corpus,
)

import harken.trail
from harken.record import rfc3339
from harken.trail import Condition, Cursor, Filter, NotFoundError, Trail, verify

# What is found is the same on every Python.
pytestmark = pytest.mark.once

Corpus = tuple[Trail, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path, records = write_corpus(tmp_path_factory.mktemp("corpus"))
    with harken.trail.open(path) as trail:
        yield trail, records


TIMES = st.none() | st.integers(-60, 11_000).map(lambda seconds: BEGAN_NS + seconds * SECOND)
PATTERNS = st.sampled_from(("tool.*", "*.completed", "tool.?tarted", "*", *TYPES))
CONDITIONS = st.builds(
    Condition,
    st.sampled_from(
        (
            *("metadata.duration_ms", "data.cost_usd", "data.nested.flag", "data.text"),
            *("data.nested.list.1.x", "data.dotted.name", "outcome", "seq", "data.none", "run_id"),
        )
    ),
    st.sampled_from(("=", "!=", "<", "<=", ">", ">=")),
    st.sampled_from((0, 3, 0.5, 2000, True, None, "plain", "success", "run-7")),
)
SEARCHES = st.builds(
    Condition,
    st.sampled_from(("data.text", "actor", "data.none")),
    st.just("~"),
    st.sampled_from(("^a", "ana$", "é")),
)
FILTERS = st.builds(
    Filter,
    since=TIMES,
    until=TIMES,
    types=st.lists(PATTERNS, max_size=2).map(tuple),
    runs=st.lists(st.sampled_from(("run-3", "run-7", "run-7?", "none")), max_size=2).map(tuple),
    families=st.lists(st.sampled_from(("run-3", "run-70")), max_size=1).map(tuple),
    sessions=st.lists(st.sampled_from(("s-1", "s-*")), max_size=1).map(tuple),
    actors=st.lists(st.sampled_from(("agent:*", *ACTORS)), max_size=2).map(tuple),
    outcomes=st.lists(st.sampled_from([o for o in OUTCOMES if o]), max_size=2).map(tuple),
    resources=st.lists(st.sampled_from(("tool:b*", "tool:search")), max_size=1).map(tuple),
    where=st.lists(CONDITIONS | SEARCHES, max_size=2).map(tuple),
    grep=st.lists(st.sampled_from(("4242", "plain", *TEXTS)), max_size=1).map(tuple),
)


def member(record: Any, names: list[str]) -> tuple[bool, Any]:
    """
    Whether a record has a member, and what it is; what a name with dots in it is, is tried.
    """
    if not names:
        return True, record
    if isinstance(record, list) and names[0].isdecimal() and int(names[0]) < len(record):
        return member(record[int(names[0])], names[1:])
    if not isinstance(record, dict):
        return False, None
    for count in range(len(names), 0, -1):
        name = ".".join(names[:count])
        if name in record:
            return member(record[name], names[count:])
    return False, None


def kind(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return str(type(value))
    return "number" if isinstance(value, (int, float)) else str(type(value))


def meets(record: dict[str, Any], condition: Condition) -> bool:
    path = re.sub("^data", "metadata", condition.path)
    is_there, found = member(record, path.split("."))
    # A member that a record may have is null where it is not there.
    is_there = is_there or path == "run_id"
    value, sign = condition.value, condition.sign
    if sign == "~":
        return isinstance(found, str) and re.search(str(value), found) is not None
    comparable = is_there and kind(found) == kind(value)
    if sign == "!=":
        return not (comparable and found == value)
    if not comparable:
        return False
    if sign == "=":
        return bool(found == value)
    if kind(value) not in {"number", str(str)}:
        return False
    order = {"<": found < value, "<=": found <= value, ">": found > value, ">=": found >= value}
    return order[sign]


def is_wanted(record: dict[str, Any], where: Filter) -> bool:
    def one_of(patterns: tuple[str, ...], name: str) -> bool:
        value = record.get(name)
        return not patterns or any(
            value is not None and fnmatchcase(value, pattern) for pattern in patterns
        )

    stored = json.dumps(record, separators=(",", ":")).rpartition(',"writer":')[0]
    return (
        (where.since is None or record["timestamp"] >= rfc3339(where.since))
        and (where.until is None or record["timestamp"] <= rfc3339(where.until))
        and one_of(where.types, "event_type")
        and one_of(where.runs, "run_id")
        and one_of(where.sessions, "session_id")
        and one_of(where.actors, "actor")
        and one_of(where.outcomes, "outcome")
        and one_of(where.resources, "resource")
        and (
            not where.families
            or record.get("run_id") in where.families
            or record.get("parent_run_id") in where.families
        )
        and all(meets(record, condition) for condition in where.where)
        and all(json.dumps(text)[1:-1] in stored for text in where.grep)
    )


class TestFindsWhatAPlainScanFinds:
    @settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(where=FILTERS, last=st.none() | st.integers(0, 30))
    def test_in_both_directions(self, corpus: Corpus, where: Filter, last: int | None) -> None:
        """
        Whatever the filter: the same records in the same order, from either end.
        """
        trail, records = corpus
        expected = [record["seq"] for record in records if is_wanted(record, where)]

        assert expected == [record.seq for record in trail.records(where)]
        assert expected[::-1] == [entry.record.seq for entry in trail.newest(where)]
        if last is not None:
            found = [record.seq for record in trail.records(where, last=last)]
            assert expected[len(expected) - min(last, len(expected)) :] == found

    @settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(where=FILTERS)
    def test_as_rows(self, corpus: Corpus, where: Filter) -> None:
        """
        What is decoded in part says the same.
        """
        trail, records = corpus
        expected = [
            (record["seq"], record["outcome"]) for record in records if is_wanted(record, where)
        ]

        rows = trail.rows(where, {"outcome": str | None, "metadata": Any})

        assert expected == [(row.seq, row.outcome) for some in rows for row in some]

    def test_and_names_the_rest(self, tmp_path: Path) -> None:
        """
        Each line that is no record is a problem with its place, unless it is blank.
        """
        path, _ = write_corpus(tmp_path, 400)

        with harken.trail.open(path) as trail:
            assert 400 == sum(1 for _ in trail.records())
            forwards = [(problem.file, problem.offset) for problem in trail.problems.first]
            assert 400 == sum(1 for _ in trail.newest())
            both = trail.problems.count

        assert 2 * (len(JUNK) - 1) == len(set(forwards)) == both // 2
        for file, offset in forwards:
            assert offset is not None
            assert Path(file).read_bytes()[offset:].startswith(tuple(JUNK[1:]))


def as_jq(where: Filter) -> str:
    tests = ["true"]
    if where.since is not None:
        tests.append(f'.timestamp >= "{rfc3339(where.since)}"')
    if where.until is not None:
        tests.append(f'.timestamp <= "{rfc3339(where.until)}"')
    for name, values in (
        ("event_type", where.types),
        ("outcome", where.outcomes),
        ("actor", where.actors),
        ("run_id", where.runs),
    ):
        if values:
            tests.append("(" + " or ".join(f".{name} == {json.dumps(v)}" for v in values) + ")")
    for condition in where.where:
        path = condition.path.replace("data.", "metadata.")
        number = f'(.{path} | type == "number")'
        tests.append(f"({number} and .{path} {condition.sign} {condition.value})")
    return f"select({' and '.join(tests)}) | .seq"


PORTABLE = st.builds(
    Filter,
    since=TIMES,
    until=TIMES,
    types=st.lists(st.sampled_from(TYPES), max_size=2).map(tuple),
    runs=st.lists(st.sampled_from(("run-3", "run-7")), max_size=2).map(tuple),
    actors=st.lists(st.sampled_from(ACTORS), max_size=2).map(tuple),
    outcomes=st.lists(st.sampled_from([o for o in OUTCOMES if o]), max_size=2).map(tuple),
    where=st.lists(
        st.builds(
            Condition,
            st.sampled_from(("data.duration_ms", "data.cost_usd")),
            st.sampled_from(("<", "<=", ">", ">=")),
            st.sampled_from((0.5, 100, 2500)),
        ),
        max_size=1,
    ).map(tuple),
)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """
    The same records in one file, without junk.
    """
    path = tmp_path_factory.mktemp("plain") / "audit.jsonl"
    path.write_bytes(b"".join(Chain().lines(work(2000))))
    return path


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=PORTABLE)
def test_jq_finds_the_same(
    require_server: Callable[[str], str], plain: Path, where: Filter
) -> None:
    """
    jq, asked for the same, finds the same.
    """
    jq = require_server("jq")
    done = subprocess.run([jq, as_jq(where), str(plain)], capture_output=True, check=True)

    with harken.trail.open(plain) as trail:
        found = [record.seq for record in trail.records(where)]

    assert [int(line) for line in done.stdout.split()] == found


class TestDuckDB:
    def test_counts_the_same(self, plain: Path) -> None:
        """
        DuckDB, asked for events, errors and durations by type, gives the same figures.
        """
        duckdb = pytest.importorskip("duckdb")
        rows = (
            duckdb.connect()
            .execute(
                "select event_type, count(*), count(*) filter (outcome in ('failure', 'timeout')),"
                " quantile_disc(metadata.duration_ms, 0.95) from read_json(?,"
                " format='newline_delimited', columns={event_type: 'varchar', outcome: 'varchar',"
                " metadata: 'struct(duration_ms double)'}) group by 1 order by 2 desc, 1",
                [str(plain)],
            )
            .fetchall()
        )

        with harken.trail.open(plain) as trail:
            groups = trail.stats("type").groups

        assert rows == [
            (group.name, group.events, group.errors, group.durations_ms["p95"]) for group in groups
        ]


class TestFind:
    def test_by_id_and_by_number(self, corpus: Corpus) -> None:
        """
        A record is found by its id and by its number, in whichever file it is.
        """
        trail, records = corpus
        for record in (records[0], records[1500], records[2500], records[-1]):
            assert record["seq"] == trail.find(record["id"]).record.seq
            assert record["id"] == trail.find(f"#{record['seq']}").record.id
            assert record["id"] == trail.find(str(record["seq"])).record.id

    def test_late_record(self, tmp_path: Path) -> None:
        """
        A record that was written long after its event is found, too.
        """
        chain = Chain()
        late = event_id(BEGAN_NS - 5000 * SECOND, 7)
        lines = chain.lines(work(100))
        lines.append(chain.line(BEGAN_NS + 10_900 * SECOND, id=late))
        (tmp_path / "a.jsonl").write_bytes(b"".join(lines))

        with harken.trail.open(tmp_path / "a.jsonl") as trail:
            assert 101 == trail.find(late).record.seq

    @pytest.mark.parametrize("name", ["0", "99999", "#", "x", event_id(BEGAN_NS, 1)])
    def test_unknown(self, corpus: Corpus, name: str) -> None:
        """
        What is not there is not found.
        """
        trail, _ = corpus
        with pytest.raises(NotFoundError, match=re.escape(name)):
            trail.find(name)


class TestCursor:
    @pytest.mark.parametrize("seen", [1, 999, 1000, 1001, 2500, 3999, 4000])
    def test_goes_on_behind_it(self, corpus: Corpus, seen: int) -> None:
        """
        What follows the record that was seen last is found, across files.
        """
        trail, records = corpus
        record = records[seen - 1]
        where = Filter(after=Cursor(record["timestamp"], seen, record["hash"]))

        assert list(range(seen + 1, 4001)) == [record.seq for record in trail.records(where)]

    def test_of_another_log(self, tmp_path: Path) -> None:
        """
        A cursor that is not of this log is named, and the log is read from its begin.
        """
        path, _ = write_corpus(tmp_path, 40)
        with harken.trail.open(path) as trail:
            found = trail.records(Filter(after=Cursor("2026-11-21T10:00:00.000000Z", 7, "f" * 64)))

            assert 40 == len(list(found))
            assert any("cursor" in problem.message for problem in trail.problems.first)


class TestDamage:
    def test_lines_that_are_too_long(self, tmp_path: Path) -> None:
        """
        A line of 10 MB is passed over and named, wherever it stands, from either end.
        """
        lines = Chain().lines(work(30))
        long = b'{"timestamp":"' + b"x" * 10_000_000 + b'"}\n'
        for place in (0, 15, 30):
            content = [*lines[:place], long, *lines[place:]]
            (tmp_path / "a.jsonl").write_bytes(b"".join(content))

            with harken.trail.open(tmp_path / "a.jsonl") as trail:
                assert 30 == sum(1 for _ in trail.records())
                assert 30 == sum(1 for _ in trail.newest())
                assert 2 == trail.problems.count
                offsets = {problem.offset for problem in trail.problems.first}
                assert {sum(map(len, lines[:place]))} == offsets

    @pytest.mark.parametrize("size", [1, 300, 400_000, 3_000_000])
    def test_torn_end(self, tmp_path: Path, size: int) -> None:
        """
        Half a line at the end is named, and is no record, however long it is.
        """
        lines = Chain().lines(work(30))
        torn = (lines[-1][:-1] * (size // 400 + 1))[:size]
        (tmp_path / "a.jsonl").write_bytes(b"".join(lines) + torn)

        with harken.trail.open(tmp_path / "a.jsonl") as trail:
            assert 30 == sum(1 for _ in trail.records())
            assert 30 == sum(1 for _ in trail.newest())
            assert [sum(map(len, lines))] * 2 == [p.offset for p in trail.problems.first]

    def test_damaged_archive(self, tmp_path: Path) -> None:
        """
        An archive that cannot be decompressed to its end is named, and the others are read.
        """
        path, _ = write_corpus(tmp_path, 400)
        archive = tmp_path / "audit.jsonl.3.gz"
        archive.write_bytes(archive.read_bytes()[:-2000])

        with harken.trail.open(path) as trail:
            seqs = [record.seq for record in trail.records()]

            assert set(range(1, 201)) | set(range(301, 401)) <= set(seqs)
            assert any(problem.file.endswith(".gz") for problem in trail.problems.first)

    def test_members_of_other_types(self, tmp_path: Path) -> None:
        """
        A line whose members are not what they must be is no record.
        """
        chain = Chain()
        lines = [chain.line(BEGAN_NS), chain.line(BEGAN_NS, actor=5), chain.line(BEGAN_NS)]
        (tmp_path / "a.jsonl").write_bytes(b"".join(lines))

        with harken.trail.open(tmp_path / "a.jsonl") as trail:
            assert [1, 3] == [record.seq for record in trail.records()]
            assert [len(lines[0])] == [problem.offset for problem in trail.problems.first]


class TestQuick:
    def test_looks_at_the_end_only(self, tmp_path: Path) -> None:
        """
        What need not be there is looked for in the last 64 MiB of a file, from whole lines on.
        """
        chain = Chain()
        filler = {"metadata": {"text": "x" * 900_000}}
        lines = [chain.line(BEGAN_NS + n * SECOND, **filler) for n in range(80)]
        (tmp_path / "a.jsonl").write_bytes(b"".join(lines))

        with harken.trail.open(tmp_path / "a.jsonl") as trail:
            quick = [entry.record.seq for entry in trail.newest(quick=True)]
            assert 0 == trail.problems.count

        assert list(range(80, 80 - len(quick), -1)) == quick
        assert 70 <= len(quick) < 80

    def test_clock_that_was_set_back(self, tmp_path: Path) -> None:
        """
        A compressed file that ends later than the next one begins is read, too, unless it must be
        quick.
        """
        chain = Chain()
        hour = 3600 * SECOND
        old = [chain.line(BEGAN_NS + n * hour) for n in range(5)]
        new = [chain.line(BEGAN_NS + hour + n * SECOND) for n in range(5)]
        (tmp_path / "a.jsonl.1.gz").write_bytes(gzip.compress(b"".join(old)))
        (tmp_path / "a.jsonl").write_bytes(b"".join(new))
        where = Filter(since=BEGAN_NS + 3 * hour)

        with harken.trail.open(tmp_path / "a.jsonl") as trail:
            assert [4, 5] == [record.seq for record in trail.records(where)]
            assert [] == list(trail.entries(where, quick=True))


@pytest.mark.parametrize("size", [10, 6000, 100_000, 400_000])
def test_long_lines_and_junk_between(tmp_path: Path, size: int) -> None:
    """
    A time is found also where lines are long, and where long stretches are no records.
    """
    chain = Chain()
    text = {"metadata": {"text": "y" * size}}
    lines = [chain.line(BEGAN_NS + n * 60 * SECOND, **text) for n in range(40)]
    lines.insert(20, b"junk without an end " * 20_000 + b"\n")
    lines.insert(30, b"j\n" * 50_000)
    (tmp_path / "a.jsonl").write_bytes(b"".join(lines))

    with harken.trail.open(tmp_path / "a.jsonl") as trail:
        for first in range(0, 40, 3):
            for last in (first, first + 5):
                where = Filter(
                    since=BEGAN_NS + first * 60 * SECOND, until=BEGAN_NS + last * 60 * SECOND
                )
                expected = list(range(first + 1, min(last, 39) + 2))
                assert expected == [record.seq for record in trail.records(where)]
                assert expected[::-1] == [entry.record.seq for entry in trail.newest(where)]


def test_log_of_the_benchmark(tmp_path: Path) -> None:
    """
    The log that questions are measured on is one: sealed, with runs in it, and causes to follow.
    """
    path = tmp_path / "audit.jsonl"
    code = "import sys, big_log, pathlib; big_log.write(pathlib.Path(sys.argv[1]), 600, 1)"
    folder = Path(__file__).parents[2] / "benchmarks"

    subprocess.run([sys.executable, "-c", code, str(path)], cwd=folder, check=True)

    assert "ok" == verify(path, chain_only=True).verdict
    with harken.trail.open(path) as trail:
        assert [60] * 10 == [run.events for run in trail.runs()]
        assert 60 == len(trail.why("600").steps)
