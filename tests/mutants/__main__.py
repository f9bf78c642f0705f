"""
Change the core, the record and redaction in one small way at a time, and see who notices.

    python tests/mutants [--count 300] [--seed N] [--tests | --features] [--again FILE]

A change that no test and no scenario notices is a survivor. Why one may survive stands in
reasons.toml. Fails when fewer than 85 of 100 changes are noticed. With --again it tries the
survivors of an earlier run once more, whose output is in the file. A change that may survive is
not tried, and counts as one that has.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import TypeAlias

import coverage
from changes import Change, all_changes
from who_runs_what import PROCESSES

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
ROOMS = (
    *("body", "bus", "delivery", "dispatch", "ending", "envelope", "event", "flushing", "keys"),
    *("operation", "pairing", "record", "redaction", "routes", "scope", "subscription"),
)
TESTS = (
    *("test_event", "test_operation", "test_scope", "test_bus", "test_testing", "test_record"),
    *("test_body", "test_delivery", "test_redaction", "test_process"),
)
FEATURES = ("listening", "delivery", "metrics", "tracing", "logging", "extending", "audit")
ENOUGH = 0.85
FEW = 3
TIMEOUT = 300.0
# A test that takes much longer than it did has been broken; the machine may be busier by then.
SLOWER = 5.0
PATIENCE = 20.0

Judge: TypeAlias = Callable[[Change, Path], str | None]
Result: TypeAlias = tuple[Change, str | None]

_times = itertools.count(1)


def main() -> int:
    """
    Run as the command line says; return the exit code.
    """
    parser = argparse.ArgumentParser(prog="mutants")
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    judges = parser.add_mutually_exclusive_group()
    judges.add_argument("--tests", action="store_true", help="ask the tests only")
    judges.add_argument("--features", action="store_true", help="ask the features only")
    parser.add_argument("--again", type=Path, help="what an earlier run has printed")
    options = parser.parse_args()

    found = list(all_changes(ROOMS, ROOT / "src"))
    if options.again is not None:
        sample = survivors_in(options.again.read_text(encoding="utf-8"), found)
        print(f"again: {len(sample)} changes", flush=True)
    else:
        sample = random.Random(options.seed).sample(found, min(options.count, len(found)))
        print(f"seed {options.seed}: {len(sample)} of {len(found)} changes", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        rooms: SimpleQueue[Path] = SimpleQueue()
        for number in range(options.jobs):
            rooms.put(Path(shutil.copytree(ROOT / "src", Path(scratch, str(number), "src"))))
        judges: list[Judge] = []
        if not options.features:
            judges.append(Tests(Path(scratch, "0", "src")).failed)
        if not options.tests:
            judges.append(Features(Path(scratch, "0", "src")).failed)

        reasons = known_reasons()

        def run(change: Change) -> str | None:
            if unnumbered(change) in reasons:
                return None
            room = rooms.get()
            try:
                return noticed_by(change, room, judges)
            finally:
                rooms.put(room)

        with ThreadPoolExecutor(options.jobs) as pool:
            results = zip(sample, pool.map(run, sample), strict=True)
            return report(list(told(results)), reasons)


def known_reasons() -> dict[str, str]:
    """
    Return why some changes may survive, by what `unnumbered()` says of them.
    """
    reasons: dict[str, str] = tomllib.loads((HERE / "reasons.toml").read_text(encoding="utf-8"))[
        "reasons"
    ]
    return reasons


def unnumbered(change: Change) -> str:
    """
    Return *change* as it is printed, without its line.
    """
    return re.sub(r":\d+:", ":", str(change))


def survivors_in(output: str, found: list[Change]) -> list[Change]:
    """
    Return those of the changes that have survived in the run that has printed *output*.
    """
    survived = set(re.findall(r"^SURVIVED  (.*?)\s*$", output, re.MULTILINE))
    chosen = [change for change in found if str(change) in survived]
    if unknown := survived - set(map(str, chosen)):
        sys.exit("no longer possible:\n" + "\n".join(sorted(unknown)))
    return chosen


def told(results: Iterable[Result]) -> Iterator[Result]:
    """
    Print each result as it comes.
    """
    for change, who in results:
        print(
            f"{'noticed ' if who else 'SURVIVED'}  {change}  {f'[{who}]' if who else ''}",
            flush=True,
        )
        yield change, who


def report(results: Sequence[Result], reasons: Mapping[str, str]) -> int:
    """
    Print the share that was noticed and the survivors; return the exit code.
    """
    survivors = [change for change, who in results if who is None]
    share = 1 - len(survivors) / len(results)
    print(f"\n{len(results) - len(survivors)} of {len(results)} were noticed: {share:.1%}")
    for change in survivors:
        print(f"  {change}\n      {reasons.get(unnumbered(change), 'no reason is known')}")
    return 0 if share >= ENOUGH else 1


class Tests:
    """
    Which tests run which line, and how long each takes.
    """

    def __init__(self, source: Path) -> None:
        data = source.with_name("coverage")
        settings = source.with_name("settings")
        settings.write_text("[run]\nsource_pkgs = harken\n", encoding="utf-8")
        files = [f"tests/{name}.py" for name in TESTS]
        begin = time.monotonic()
        code, output = run_bounded(
            source,
            *("-m", "coverage", "run", f"--rcfile={settings}", f"--data-file={data}"),
            *("-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "who_runs_what"),
            *("--durations=0", "--durations-min=0.1", *files),
            timeout=6 * TIMEOUT,
        )
        # What fails without a change is no evidence about one.
        failed = set(re.findall(r"^(?:FAILED|ERROR) (\S+)", output, re.MULTILINE))
        if len(failed) > FEW or code not in (0, 1):
            sys.exit(f"the tests fail as it is:\n{output[-5000:]}")
        print(
            f"measured in {time.monotonic() - begin:.0f} s; left out: {failed or 'none'}",
            flush=True,
        )
        self._left_out = failed
        self._processes = set(source.with_name("processes").read_text("utf-8").splitlines())
        self._seconds: dict[str, float] = {}
        for seconds, test in re.findall(r"^([\d.]+)s (?:setup|call) +(.+)$", output, re.MULTILINE):
            self._seconds[test] = self._seconds.get(test, 0.0) + float(seconds)
        measured = coverage.CoverageData(str(data))
        measured.read()
        self._all = measured.measured_contexts()
        # Coverage follows links.
        folder = source.resolve()
        self._by_line = {
            Path(name).relative_to(folder): measured.contexts_by_lineno(name)
            for name in measured.measured_files()
            if Path(name).is_relative_to(folder)
        }

    def of(self, change: Change) -> list[str]:
        """
        Return the tests that run the changed line, then those of its room: what is made once for
        all tests is run by the first of them only. What runs in processes of their own is not
        known, so these are always asked. Among equals the quick ones come first.
        """
        lines = self._by_line.get(change.path, {})
        span = range(change.line, change.line + change.old.count("\n") + 1)
        found = {test for line in span for test in lines.get(line, ()) if test}
        room = f"tests/test_{change.room}.py::"
        asked = found | self._processes | {test for test in self._all if test.startswith(room)}
        return sorted(
            asked - self._left_out,
            key=lambda test: (test not in found, self.seconds(test), test),
        )

    def failed(self, change: Change, source: Path) -> str | None:
        """
        Return the first of the tests that fails in *source*, where *change* was made.
        """
        chosen = self.of(change)
        # What is slow is only asked when what is quick has noticed nothing, and may be slow.
        quick = [test for test in chosen if self.seconds(test) < 1]
        slow = [test for test in chosen if self.seconds(test) >= 1]
        patience = PATIENCE + SLOWER * max(map(self.seconds, slow), default=0.0)
        return failed_of(quick, source, PATIENCE) or failed_of(slow, source, patience)

    def seconds(self, test: str) -> float:
        """
        Return how long *test* takes, of which nothing below 0.1 is known.
        """
        return self._seconds.get(test, 0.0)


def environment(source: Path) -> dict[str, str]:
    """
    Return the environment in which *source* is what is imported.
    """
    path = os.pathsep.join([str(source), str(HERE)])
    return {
        **os.environ,
        "PYTHONPATH": path,
        "PYTHONPYCACHEPREFIX": str(source.parents[1] / "compiled"),
        PROCESSES: str(source.with_name("processes")),
        "HARKEN_FEW_EXAMPLES": "1",
        "HARKEN_REPEATABLE_TESTS": "1",
    }


def noticed_by(change: Change, source: Path, judges: Sequence[Judge]) -> str | None:
    """
    Return the test or the scenario that notices *change*; None when none does.
    """
    path = source / change.path
    before = path.read_text(encoding="utf-8")
    path.write_text(change.apply(before), encoding="utf-8")
    # Of two versions with the same size and time, compiled code would be taken for the other's.
    os.utime(path, (next(_times),) * 2)
    try:
        return next(filter(None, (judge(change, source) for judge in judges)), None)
    finally:
        path.write_text(before, encoding="utf-8")


def failed_of(chosen: list[str], source: Path, timeout: float) -> str | None:
    """
    Return the first of the tests that fails, or that takes more than *timeout* seconds.
    """
    if not chosen:
        return None
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as names:
        names.write("\n".join(chosen))
        names.flush()
        options = ("-x", "-q", f"--timeout={timeout}", "-p", "no:cacheprovider", f"@{names.name}")
        code, output = run_bounded(source, "-m", "pytest", *options, timeout=TIMEOUT + timeout)
    if code == 0:
        return None
    match = re.search(r"^(?:FAILED|ERROR) (\S+)", output, re.MULTILINE)
    return match[1] if match else "pytest does not even start, or does not end"


class Features:
    """
    The scenarios, all of which are asked about every change.
    """

    def __init__(self, source: Path) -> None:
        if scenario := self._failed(source):
            sys.exit(f"fails as it is: {scenario}")

    def failed(self, change: Change, source: Path) -> str | None:
        """
        Return the first scenario that fails in *source*, where *change* was made.
        """
        return self._failed(source)

    def _failed(self, source: Path) -> str | None:
        folders = [f"features/{name}" for name in FEATURES]
        options = ("--stop", "--format=progress", *folders)
        code, output = run_bounded(source, "-m", "behave", *options)
        if code == 0:
            return None
        match = re.search(r"^  (features/\S+\.feature:\d+)\s+(.*)$", output, re.MULTILINE)
        return f"{match[1]} {match[2]}" if match else "behave does not even start, or does not end"


def run_bounded(source: Path, *arguments: str, timeout: float = TIMEOUT) -> tuple[int, str]:
    """
    Run Python and everything that it starts, for a while; return its exit code and its output.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=environment(source),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout)
        finally:
            # What a broken program has started goes with it.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        output.seek(0)
        return process.returncode, output.read()


if __name__ == "__main__":
    sys.exit(main())
