"""
``harken sql``.
"""

from __future__ import annotations

import gzip
import json
import lzma
import os
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from tests.report.agents import write_agent_log
from tests.trail.corpora import BEGAN_NS, JUNK, Chain
from tests.trail.logs import write_log

pytest.importorskip("duckdb")
pytest.importorskip("pytz")

pytestmark = pytest.mark.once

Run = Callable[..., CompletedProcess[str]]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "audit.jsonl"
    write_agent_log(path, 10)
    return path


def rows_of(done: CompletedProcess[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_columns(harken: Run, log: Path) -> None:
    """
    Members of a record are columns, what is most asked for of the metadata too, and times compare
    with times.
    """
    query = (
        "select tool_name, error_type, metadata->>'error_message' as message, attributes "
        "from audit where event_type = 'tool.failed' and timestamp > now() - interval 1 hour "
        "and timestamp <= now()"
    )

    done = harken("sql", "-F", str(log), query, "-o", "jsonl")

    assert [
        {
            "tool_name": "write_file",
            "error_type": "OSError",
            "message": "the disk is full",
            "attributes": None,
        }
    ] == rows_of(done)


def test_figures(harken: Run, log: Path) -> None:
    """
    What is added up is what `harken stats` adds up.
    """
    query = (
        "select model as name, count(*) as calls, sum(input_tokens)::bigint as input_tokens, "
        "round(sum(cost_usd), 6) as cost_usd from audit where event_type = 'llm.completed' "
        "group by all"
    )
    stats = json.loads(harken("stats", "-F", str(log), "--by", "model", "-o", "json").stdout)
    (group,) = (group for group in stats["data"]["groups"] if group["name"] == "m-large")

    (row,) = rows_of(harken("sql", "-F", str(log), query, "-o", "jsonl"))

    assert {name: pytest.approx(group[name]) for name in row if name != "name"} == {
        name: value for name, value in row.items() if name != "name"
    }


def test_all_files(harken: Run, tmp_path: Path) -> None:
    """
    The files that a log was rotated into belong to it, compressed or not; lines that are no records
    are left out, counted and told.
    """
    lines = Chain().lines({"time_ns": BEGAN_NS + n} for n in range(6))
    (tmp_path / "audit.jsonl.1").write_bytes(b"".join(lines[:2]))
    (tmp_path / "audit.jsonl.2.gz").write_bytes(gzip.compress(b"".join(lines[2:4])))
    (tmp_path / "audit.jsonl").write_bytes(b"".join([*lines[4:], *JUNK[:5], b'{"torn']))

    done = harken("sql", "-F", "audit.jsonl", "select seq from audit", "-o", "csv", returncode=3)

    assert ["seq", "1", "2", "3", "4", "5", "6"] == done.stdout.splitlines()
    assert "without a record; left out" in done.stderr


def test_forms(harken: Run, log: Path) -> None:
    """
    An answer is a table, CSV, lines of JSON, or one envelope; JSON of the log is JSON there.
    """
    query = "select seq, actor, metadata from audit where event_type = 'run.started'"

    def answer(form: str) -> str:
        return harken("sql", "-F", str(log), query, "-o", form).stdout

    envelope = json.loads(answer("json"))
    assert ["seq", "actor", "metadata"] == envelope["data"]["columns"]
    ((seq, actor, metadata),) = envelope["data"]["rows"]
    assert (2, "agent:coder", "repair") == (seq, actor, metadata["task_type"])
    assert "untrusted" == envelope["meta"]["content_trust"]
    assert json.loads(answer("jsonl"))["metadata"] == metadata
    assert answer("csv").startswith('seq,actor,metadata\n2,agent:coder,"{""')
    assert answer("text").splitlines()[0].split() == ["seq", "actor", "metadata"]


def test_values(harken: Run, log: Path) -> None:
    """
    What JSON has no word for becomes a text, or nothing.
    """
    query = "select date '2026-11-21' as day, 1.5::decimal as d, 'nan'::double as n, [1, 2] as l"

    done = harken("sql", "-F", str(log), query, "-o", "jsonl")

    assert [{"day": "2026-11-21", "d": "1.500", "n": None, "l": [1, 2]}] == rows_of(done)


def test_utc(harken: Run, log: Path) -> None:
    """
    Times are those of the zone that is asked for.
    """
    query = "select timestamptz '2026-11-21 10:00:00+00' as t"

    def shown(*options: str) -> str:
        done = harken(
            "sql", "-F", str(log), query, "-o", "jsonl", *options, env={"TZ": "Asia/Kolkata"}
        )
        return str(rows_of(done)[0]["t"])

    assert "2026-11-21 10:00:00+00:00" == shown("--tz", "utc")
    assert "2026-11-21 15:30:00+05:30" == shown("--tz", "local")


def test_limit(harken: Run, log: Path) -> None:
    """
    More rows than anybody reads are printed only when they are asked for.
    """
    query = "from range(1500)"

    cut = harken("sql", "-F", str(log), query, "-o", "csv")
    every = harken("sql", "-F", str(log), query, "-o", "csv", "--limit", "0")
    two = harken("sql", "-F", str(log), query, "--limit", "2", "-o", "json")

    assert (1001, 1501) == (len(cut.stdout.splitlines()), len(every.stdout.splitlines()))
    assert "--limit 0" in cut.stderr
    assert True is json.loads(two.stdout)["meta"]["truncated"]


@pytest.mark.parametrize(
    "query",
    [
        *("selec", "select nothing from audit", "select 'a'::integer", ""),
        *("select 1; select 2", "copy audit to 'stolen'", "create table t (x int)"),
        *("attach 'other.db'", "set threads = 1", "insert into audit values (1)", "load httpfs"),
        *("select * from log", "pragma version"),
    ],
)
def test_wrong_queries(harken: Run, log: Path, query: str) -> None:
    """
    What is no SELECT of the log is refused in one sentence, and does nothing.
    """
    done = harken("sql", "-F", str(log), query, "-o", "text", returncode=2)

    assert ("", 1) == (done.stdout, len(done.stderr.splitlines()))
    assert "QUERY" in done.stderr
    assert [log] == list(log.parent.iterdir())


@pytest.mark.parametrize(
    "source", ["'secret.csv'", "read_text('secret.csv')", "read_csv('secret.csv')"]
)
def test_other_files(harken: Run, log: Path, source: str) -> None:
    """
    A query reaches no file but the log.
    """
    (log.parent / "secret.csv").write_text("a,b\n1,2\n")

    done = harken("sql", "-F", str(log), f"from {source}", "-o", "csv", returncode=2)

    assert "" == done.stdout
    assert "secret.csv" in done.stderr


def test_the_log_is_not_written_to(harken: Run, log: Path) -> None:
    """
    A query cannot write over the log that it may read.
    """
    before = log.read_bytes()

    harken("sql", "-F", str(log), f"copy (select 1) to '{log}'", returncode=2)

    assert before == log.read_bytes()


def test_same_names(harken: Run, log: Path) -> None:
    """
    Two columns of one name are not made one.
    """
    query = "select 1 as a, 2 as a"

    refused = harken("sql", "-F", str(log), query, "-o", "jsonl", returncode=2)

    assert "AS" in refused.stderr
    assert "a,a\n1,2\n" == harken("sql", "-F", str(log), query, "-o", "csv").stdout


def test_names_of_files(harken: Run, tmp_path: Path) -> None:
    """
    A name is a name, whatever it looks like to SQL or to a pattern.
    """
    folder = tmp_path / "it's [1] *?"
    folder.mkdir()
    write_log(folder / "audit.jsonl", 3)

    done = harken(
        "sql", "-F", str(folder / "audit.jsonl"), "select max(n) as n from audit", "-o", "jsonl"
    )

    assert [{"n": 6}] == rows_of(done)


def test_what_duckdb_cannot_read(harken: Run, tmp_path: Path) -> None:
    """
    A file that DuckDB cannot decompress is named, and the others are answered from.
    """
    lines = Chain().lines({"time_ns": BEGAN_NS + n} for n in range(4))
    (tmp_path / "audit.jsonl.1.xz").write_bytes(lzma.compress(b"".join(lines[:2])))
    (tmp_path / "audit.jsonl").write_bytes(b"".join(lines[2:]))

    done = harken("sql", "-F", "audit.jsonl", "select seq from audit", "-o", "csv", returncode=3)

    assert "seq\n3\n4\n" == done.stdout
    assert "audit.jsonl.1.xz" in done.stderr


def test_damaged_file(harken: Run, tmp_path: Path) -> None:
    """
    A file that ends too early is named, and the others are answered from.
    """
    lines = Chain().lines({"time_ns": BEGAN_NS + n} for n in range(4))
    packed = gzip.compress(b"".join(lines[:2]))
    (tmp_path / "audit.jsonl.1.gz").write_bytes(packed[: len(packed) // 2])
    (tmp_path / "audit.jsonl").write_bytes(b"".join(lines[2:]))

    done = harken("sql", "-F", "audit.jsonl", "select seq from audit", "-o", "csv", returncode=3)

    assert "seq\n3\n4\n" == done.stdout
    assert "audit.jsonl.1.gz" in done.stderr


def test_empty_log(harken: Run, tmp_path: Path) -> None:
    """
    A log without a line is a view without a row.
    """
    (tmp_path / "audit.jsonl").touch()

    done = harken("sql", "-F", "audit.jsonl", "select count(*) as n from audit", "-o", "jsonl")

    assert [{"n": 0}] == rows_of(done)


def test_missing_log(harken: Run) -> None:
    """
    A log that is not there is named.
    """
    assert "none.jsonl" in harken("sql", "-F", "none.jsonl", "select 1", returncode=4).stderr


def test_without_duckdb(harken: Run, log: Path, tmp_path: Path) -> None:
    """
    Where DuckDB is not installed, the command says what to install.
    """
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "duckdb.py").write_text("raise ImportError('there is none')\n")
    path = os.pathsep.join(filter(None, [str(modules), os.environ.get("PYTHONPATH")]))

    done = harken("sql", "-F", str(log), "select 1", env={"PYTHONPATH": path}, returncode=4)

    assert "harken[sql]" in done.stderr


def test_hostile_text(harken: Run, tmp_path: Path) -> None:
    """
    What steers a terminal is escaped in a table and in CSV.
    """
    write_log(tmp_path / "audit.jsonl", 1, text="\x1b[31mred\u202e")
    query = "select metadata->>'text' as t from audit where event_type = 'trail_test.struck'"

    for form in ("text", "csv"):
        done = harken("sql", "-F", "audit.jsonl", query, "-o", form)
        assert "t\n\\x1b[31mred\\u202e\n" == done.stdout
