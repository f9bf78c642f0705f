"""
How long questions to a large audit log take, beside `harken version`, jq and DuckDB.

The log is made of records as agents leave them, 2,000,000 in more than 1 GB unless --records says
otherwise, spread evenly over --days; it is kept in --folder for the next time. Each question is a
process of its own, timed from its start to its end with the file in the page cache; the figures are
processor time where something is compared that runs on one core, and time on the wall for DuckDB,
which runs on all. jq and DuckDB are left out where they are not installed.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from measure import Results, begin, interleaved

from harken.record import GENESIS, Draft

RUN = 60
"""Records of one run."""

HARKEN = (sys.executable, "-m", "harken")

AGGREGATE = """
import sys, duckdb
connection = duckdb.connect()
connection.execute("set threads to 2")
print(connection.execute(
    "select event_type, count(*), count(*) filter (outcome in ('failure', 'timeout', 'orphaned')),"
    " count(*) filter (outcome = 'denied'), quantile_disc(metadata.duration_ms, [0.5, 0.95]),"
    " sum(metadata.input_tokens), sum(metadata.output_tokens), sum(metadata.cost_usd)"
    " from read_json(?, format='newline_delimited', columns={event_type: 'varchar',"
    " outcome: 'varchar', metadata: 'struct(duration_ms double, input_tokens bigint,"
    " output_tokens bigint, cost_usd double)'}) group by 1", [sys.argv[1]]
).fetchall())
"""

JQ_AGGREGATE = (
    "reduce inputs as $r ({}; .[$r.event_type] |= {"
    'n: (.n + 1), e: (.e + (if $r.outcome == "failure" then 1 else 0 end)),'
    " d: (.d + ($r.metadata.duration_ms // 0)), t: (.t + ($r.metadata.input_tokens // 0)),"
    " c: (.c + ($r.metadata.cost_usd // 0))})"
)


def event_id(time_ns: int, number: int) -> str:
    text = f"{time_ns // 1_000_000:012x}7{number & 0xFFF:03x}8{number:015x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def write(path: Path, count: int, days: float) -> None:
    """
    Write a log whose last record is of now: runs of sixty records, each caused by one before it.
    """
    chance = random.Random(1)
    end_ns = time.time_ns()
    step = int(days * 86_400e9) // count
    head = GENESIS
    cause = ""
    with path.open("wb", buffering=1 << 20) as file:
        for number in range(count):
            time_ns = (end_ns - (count - number) * step) // 1000 * 1000
            place = number % RUN
            draft = _draft(chance, time_ns, number, place, cause)
            line, head = draft.line(time_ns, number + 1, "w-1", number + 1, head)
            cause = event_id(time_ns, number)
            file.write(line)


def _draft(chance: random.Random, time_ns: int, number: int, place: int, cause: str) -> Draft:
    run = number // RUN
    kind, outcome, data = _event(chance, place)
    text = "".join(chance.choices("abcdefghij klmnop", k=chance.randrange(20)))
    front = (
        f',"v":1,"id":"{event_id(time_ns, number)}","event_type":"{kind}"'
        f',"actor":"agent:a{run % 7}","action":"call","resource":"tool:t{place % 5}"'
        f',"outcome":{outcome},"metadata":{{{data},"text":"{text}"}}'
        f',"correlation_id":"c-{run}","trace_id":"{run + 1:032x}","span_id":"{number:016x}"'
    )
    back = f',"session_id":"s-{run // 10}","run_id":"run-{run:08d}"'
    if place:
        back += f',"causation_id":"{cause}"'
    if kind.rpartition(".")[2] in {"completed", "failed"}:
        back += f',"started_event_id":"{cause}"'
    return Draft(time_ns, front, f'{back},"schema_version":1')


def _event(chance: random.Random, place: int) -> tuple[str, str, str]:
    if place == 0:
        return "run.started", "null", '"task_type":"repair"'
    if place == RUN - 1:
        return "run.completed", '"success"', f'"duration_ms":{chance.randrange(60_000)}'
    match place % 6:
        case 0:
            return "llm.started", "null", '"model":"m-large"'
        case 1:
            tokens = (
                f'"input_tokens":{chance.randrange(8000)},"output_tokens":{chance.randrange(900)}'
            )
            spent = (
                f'"cost_usd":0.0{chance.randrange(99):02d},"duration_ms":{chance.randrange(9000)}'
            )
            return "llm.completed", '"success"', f'"model":"m-large",{tokens},{spent}'
        case 2:
            return "text.emitted", '"success"', '"block_index":0'
        case 3:
            return "tool.started", "null", f'"tool_name":"t{place % 5}"'
        case 4:
            return "policy.evaluated", '"success"', '"policy_id":"p","decision":"allow"'
        case _:
            failed = chance.random() < 0.05
            kind = "tool.failed" if failed else "tool.completed"
            outcome = '"failure"' if failed else '"success"'
            return kind, outcome, f'"tool_name":"t1","duration_ms":{chance.randrange(5000)}'


def cpu(command: Sequence[str]) -> float:
    """
    Return the seconds of processor time that *command* takes.
    """
    return _measured(command)[0]


def wall(command: Sequence[str]) -> float:
    """
    Return the seconds that *command* takes.
    """
    return _measured(command)[1]


def peak_mb(command: Sequence[str]) -> float:
    """
    Return how much memory *command* takes at most.
    """
    return _measured(command)[2]


def _measured(command: Sequence[str]) -> tuple[float, float, float]:
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    took = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{command} failed")
    shift = 20 if sys.platform == "darwin" else 10
    return usage.ru_utime + usage.ru_stime, took, usage.ru_maxrss / (1 << shift)


def log_of(folder: Path, count: int, days: float) -> tuple[Path, Path]:
    """
    Return a log of *count* records, and one of a tenth of them over a tenth of the time.
    """
    paths = []
    for name, part in (("big", 1), ("small", 10)):
        path = folder / f"{name}-{count // part}.jsonl"
        # What was asked of the last hour has to be there.
        if not path.exists() or time.time() - path.stat().st_mtime > 600:
            write(path, count // part, days / part)
        paths.append(path)
    return paths[0], paths[1]


def main() -> int:
    results = begin(
        __doc__,
        __file__,
        rounds=5,
        more={
            "records": (int, 2_000_000, "how many"),
            "days": (float, 7.0, "over which they are spread"),
            "folder": (Path, Path(tempfile.gettempdir()), "where the log is kept"),
        },
    )
    options = results.options
    big, small = log_of(options.folder, results.scaled(options.records), options.days)
    results.add("size of the log", [big.stat().st_size / 1e6], "MB")
    ask_little(results, big, small)
    ask_much(results, big)
    results.save()
    return 0


def questions(path: Path, last: str) -> dict[str, tuple[str, ...]]:
    file = ("-F", str(path))
    return {
        "query --since 1h --type 'tool.*'": (
            *HARKEN,
            *("query", *file, "--since", "1h", "--type", "tool.*", "--limit", "0"),
        ),
        "why ID": (*HARKEN, "why", *file, last, "--all", "-o", "text"),
        "tail -n 20": (*HARKEN, "tail", *file),
        "show ID": (*HARKEN, "show", *file, last),
    }


def last_id(path: Path) -> str:
    """
    Return the id of the last record, which has a run full of causes.
    """
    return subprocess.run(
        [*HARKEN, "tail", "-F", str(path), "-n", "1", "--fields", "id", "-o", "text"],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout.strip()


def ask_little(results: Results, big: Path, small: Path) -> None:
    """
    Measure questions whose answer is in a small part of the log.
    """
    samples = {"version": partial(cpu, (*HARKEN, "version"))}
    for size, path in (("big", big), ("small", small)):
        for name, command in questions(path, last_id(path)).items():
            samples[f"{name} {size}"] = partial(cpu, command)
    found = interleaved(samples, results.rounds)
    for name in questions(big, ""):
        results.add(f"{name}, processor time", found[f"{name} big"], "s")
        results.compare(f"{name} / harken version", found[f"{name} big"], found["version"], bar=5.0)
        results.compare(
            f"{name}: ten times the log", found[f"{name} big"], found[f"{name} small"], bar=1.5
        )


def ask_much(results: Results, path: Path) -> None:
    """
    Measure questions for which the whole log is looked at.
    """
    log = str(path)
    run = "run-00000777"
    query = (*HARKEN, "query", "-F", log, "--run", run)
    stats = (*HARKEN, "stats", "-F", log)
    rounds = min(results.rounds, 3)
    found = interleaved({"query": partial(cpu, query), "stats": partial(cpu, stats)}, rounds)
    results.add("query --run, processor time", found["query"], "s")
    results.add("stats, processor time", found["stats"], "s")
    for name, command in (
        ("query --run", query),
        ("stats", stats),
        ("runs", (*HARKEN, "runs", "-F", log)),
    ):
        results.add(f"{name}, memory at most", [peak_mb(command)], "MB", bar=100.0)
    jq = shutil.which("jq")
    if jq is not None:
        theirs = interleaved(
            {
                "query": partial(cpu, (jq, "-c", f'select(.run_id == "{run}")', log)),
                "stats": partial(cpu, (jq, "-n", JQ_AGGREGATE, log)),
            },
            1,
        )
        results.compare("query --run / jq", found["query"][:1], theirs["query"], bar=0.1)
        results.compare("stats / jq", found["stats"][:1], theirs["stats"], bar=0.2)
    if find_spec("duckdb") is not None:
        duckdb = (sys.executable, "-c", AGGREGATE, log)
        both = interleaved({"ours": partial(wall, stats), "theirs": partial(wall, duckdb)}, rounds)
        results.compare("stats / DuckDB, on the wall", both["ours"], both["theirs"], bar=2.5)


if __name__ == "__main__":
    sys.exit(main())
