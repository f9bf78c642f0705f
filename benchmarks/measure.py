"""
What all scripts here share: interleaved rounds, medians, and the rows of results.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from timeit import Timer
from typing import Any, TypeAlias

Sample: TypeAlias = Callable[[], float]
"""Measures once, and returns what came out."""

PACKAGES = (
    "blinker",
    "google-re2",
    "langgraph",
    "llama-index-instrumentation",
    "loguru",
    "msgspec",
    "openai-agents",
    "opentelemetry-sdk",
    "orjson",
    "prometheus-client",
    "psygnal",
    "pydantic-ai-slim",
    "pyee",
    "python-json-logger",
    "structlog",
)


@dataclass(frozen=True)
class Row:
    """
    One result: the median of all rounds, with the least and the most.

    Attributes:
        unit: ``x`` for a ratio of two things that were measured in the same round.

        bar: What it has to reach, if that was said; *stretch* likewise.

        at_least: Whether more is better.
    """

    name: str
    value: float
    low: float
    high: float
    unit: str
    bar: float | None = None
    stretch: float | None = None
    at_least: bool = False

    def met(self) -> bool | None:
        """
        Whether the bar is reached; None when there is none.
        """
        if self.bar is None:
            return None
        return self.value >= self.bar if self.at_least else self.value <= self.bar

    def __str__(self) -> str:
        bar = ""
        if self.bar is not None:
            sign = ">=" if self.at_least else "<="
            bar = f"  bar {sign} {shown(self.bar)}{'' if self.met() else ', MISSED'}"
        return (
            f"{self.name:<64} {shown(self.value):>9} {self.unit:<9} "
            f"({shown(self.low)} to {shown(self.high)}){bar}"
        )


def shown(number: float) -> str:
    """
    Return *number* with three digits that mean something.
    """
    if number >= 1000:
        return f"{number:,.0f}"
    return f"{number:.3g}"


@dataclass
class Results:
    """
    The rows of one script, printed as they come.
    """

    script: str
    options: argparse.Namespace
    rows: list[Row] = field(default_factory=list)

    @property
    def rounds(self) -> int:
        """
        How many rounds to measure.
        """
        return int(self.options.rounds)

    @property
    def quick(self) -> bool:
        """
        Whether this is only to see that the script works.
        """
        return bool(self.options.quick)

    def scaled(self, number: int) -> int:
        """
        Return *number*, or a tenth of it when this is to be quick.
        """
        return max(number // 10, 1) if self.quick else number

    def add(self, name: str, values: Iterable[float], unit: str, **bars: Any) -> Row:
        """
        Add the median of *values*.
        """
        found = sorted(values)
        row = Row(name, statistics.median(found), found[0], found[-1], unit, **bars)
        self.rows.append(row)
        print(row, flush=True)
        return row

    def compare(
        self, name: str, ours: Sequence[float], theirs: Sequence[float], **bars: Any
    ) -> Row:
        """
        Add the median of the ratios of both, round by round.
        """
        return self.add(name, map(float.__truediv__, ours, theirs), "x", **bars)

    def save(self) -> None:
        """
        Write the rows as JSON into the folder that was asked for, if any.
        """
        if self.options.out is None:
            return
        folder = Path(self.options.out)
        folder.mkdir(parents=True, exist_ok=True)
        about = {
            "script": self.script,
            "python": platform.python_version(),
            "implementation": platform.python_implementation(),
            "date": datetime.now(UTC).date().isoformat(),
            "rounds": self.rounds,
            "quick": self.quick,
            "machine": machine(),
            "packages": packages(),
        }
        # A line for each row, so that two runs can be compared with any diff.
        lines = [f"  {json.dumps(name)}: {json.dumps(value)}," for name, value in about.items()]
        rows = ",\n".join(f"    {json.dumps(_rounded(asdict(row)))}" for row in self.rows)
        text = "\n".join(["{", *lines, '  "rows": [', rows, "  ]", "}"])
        name = f"{self.script}-{'.'.join(platform.python_version_tuple()[:2])}.json"
        (folder / name).write_text(f"{text}\n", encoding="utf-8")


def _rounded(row: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in row.items() if value is not None and value is not False}
    for name in ("value", "low", "high"):
        kept[name] = float(f"{kept[name]:.4g}")
    return kept


def begin(
    doc: str | None,
    script: str,
    *,
    rounds: int,
    quick: int = 2,
    more: Mapping[str, tuple[type, Any, str]] | None = None,
) -> Results:
    """
    Read the command line, and return where the results go.

    Args:
        script: The path of the script.

        rounds: How many rounds to measure if nothing else is asked for; *quick* likewise, with
            ``--quick``.

        more: Further options, by name: their type, default and help.
    """
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, help=f"by default {rounds}, or {quick} if quick")
    parser.add_argument("--quick", action="store_true", help="see that it works, in a few seconds")
    parser.add_argument("--out", metavar="FOLDER", help="where to write the results as JSON")
    for name, (kind, default, text) in (more or {}).items():
        parser.add_argument(f"--{name}", type=kind, default=default, help=text)
    options = parser.parse_args()
    options.rounds = options.rounds or (quick if options.quick else rounds)
    name = Path(script).stem
    print(
        f"== {name}: {platform.python_implementation()} {platform.python_version()}, "
        f"{os.cpu_count()} cores, {options.rounds} rounds",
        flush=True,
    )
    return Results(name, options)


def interleaved(samples: Mapping[str, Sample], rounds: int) -> dict[str, list[float]]:
    """
    Take each sample once in each round, forwards and backwards in turn, so that whatever else the
    machine does meanwhile hits all of them. A first round is thrown away.
    """
    found: dict[str, list[float]] = {name: [] for name in samples}
    names = list(samples)
    for number in range(-1, rounds):
        for name in names if number % 2 else reversed(names):
            value = samples[name]()
            if number >= 0:
                found[name].append(value)
    return found


def timed(statement: str, names: Mapping[str, object], *, quick: bool = False) -> Sample:
    """
    Return what measures the seconds that *statement* takes once; the garbage collector runs, too.

    Args:
        names: What the statement refers to.
    """
    timer = Timer(statement, "_collect()", globals={**names, "_collect": gc.enable})
    least = 0.003 if quick else 0.02
    calls = 1
    while (took := timer.timeit(calls)) < least:
        calls = max(calls * 2, int(calls * 1.2 * least / max(took, 1e-9)))
    return lambda: timer.timeit(calls) / calls


def calling(
    call: Callable[[], object],
    calls: int,
    *,
    clock: Callable[[], float] = time.perf_counter,
    after: Callable[[], object] = float,
) -> Sample:
    """
    Return what measures the seconds that *call* takes on average over so many calls.

    Args:
        clock: By default that on the wall; `time.thread_time` leaves out all other threads.

        after: Called afterwards, unmeasured, so that what is still going on disturbs nobody else.
    """

    def sample() -> float:
        begun = clock()
        for _ in range(calls):
            call()
        taken = clock() - begun
        after()
        return taken / calls

    return sample


def percentile(values: Sequence[float], part: float) -> float:
    """
    Return the value below which *part* (0.0 to 1.0) of the sorted *values* are.
    """
    return values[min(int(len(values) * part), len(values) - 1)]


def resident_bytes() -> int:
    """
    Return how much memory this process has now; where that is not told, the most it ever had.
    """
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak << 10
    return pages * resource.getpagesize()


def machine() -> dict[str, str | int]:
    """
    Return what this ran on.
    """
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return {
        "cpu": model,
        "cores": os.cpu_count() or 0,
        "kernel": f"{platform.system()} {'.'.join(platform.release().split('.')[:2])}",
    }


def packages() -> dict[str, str]:
    """
    Return the versions of what was compared.
    """
    found: dict[str, str] = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
