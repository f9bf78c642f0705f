"""
Turn the results of all scripts, of one or several Pythons, into a page with tables and plots.

Reads the JSON files that the scripts write with ``--out``, and writes README.md and SVG files. The
same results always give the same files.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from measure import Row, shown

HERE = Path(__file__).resolve().parent.parent / "docs" / "performance"

PAGE = Path(__file__).with_name("page.md")
QUICK = "\nThese are the figures of a quick run, and only show that it works."
PLACE = re.compile(r"\{\{(\w+)\}\}")

# What the same costs by hand, where that was measured: the row of the same script.
BY_HAND = {
    "handlers 4: harken / blinker send": "handlers 4: by hand / blinker send",
    "point event / python-json-logger": "by hand: point event / python-json-logger",
    "event of an operation / python-json-logger": (
        "by hand: event of an operation / python-json-logger"
    ),
    "burst cpu: harken, audit inline / blinker": "burst cpu: by hand, audit inline / blinker",
    "burst cpu: harken, audit async / blinker": "burst cpu: by hand, audit async / blinker",
    "paced cpu: harken, audit inline / blinker": "paced cpu: by hand, audit inline / blinker",
    "paced cpu: harken, audit async / blinker": "paced cpu: by hand, audit async / blinker",
    "harken process / python-json-logger": "by hand / python-json-logger",
    "harken process, redacted / python-json-logger": "by hand, redacted / python-json-logger",
}

# What was promised, in order: what it is called, the script, and the row.
PROMISES: tuple[tuple[str, str, str], ...] = (
    (
        "`publish()`, nobody listening, against `blinker.Signal.send` with no receiver",
        "dispatch",
        "handlers 0: harken / blinker send",
    ),
    (
        "`publish()` to 4 inline no-op handlers, envelope included, against `send`",
        "dispatch",
        "handlers 4: harken / blinker send",
    ),
    (
        "caller's cost with all four sinks on `worker`, a point event, against the line",
        "caller",
        "point event / python-json-logger",
    ),
    (
        "the same for an event of an operation, which is paired by key",
        "caller",
        "event of an operation / python-json-logger",
    ),
    (
        "processor time per event through all four sinks, audit inline, against naive",
        "pipeline",
        "burst cpu: harken, audit inline / blinker",
    ),
    ("the same, audit async", "pipeline", "burst cpu: harken, audit async / blinker"),
    (
        "the same at one event in a millisecond, audit inline",
        "pipeline",
        "paced cpu: harken, audit inline / blinker",
    ),
    ("the same, audit async", "pipeline", "paced cpu: harken, audit async / blinker"),
    (
        "audited 1 KB event, in the kernel at return, not redacted, against the line",
        "audit_append",
        "harken process / python-json-logger",
    ),
    ("the same, redacted", "audit_append", "harken process, redacted / python-json-logger"),
    (
        "8 processes appending to one audit file, against one process",
        "writers",
        "8 processes / 1 process",
    ),
    ("`verify`, on one processor", "verifying", "records per second of processor time"),
    ("`verify`, memory at most", "verifying", "memory at most"),
    ("`import harken`", "import_time", "import harken"),
    (
        "memory of a queued event beside its payload",
        "memory",
        "beside its payload, queued for one sink",
    ),
)

Table: TypeAlias = dict[str, dict[str, Row]]
"""The rows of one script by name, and then by Python."""


class Measured:
    """
    Everything that was read: the rows of each script, and what is known about the runs.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        self.tables: dict[str, Table] = {}
        self.about: dict[str, dict[str, Any]] = {}
        self.quick = False
        for path in sorted(files):
            found = json.loads(path.read_text(encoding="utf-8"))
            python = ".".join(found["python"].split(".")[:2])
            about = self.about.setdefault(python, {"dates": set()})
            about["dates"].add(found["date"])
            about |= {name: found[name] for name in ("python", "machine", "packages")}
            self.quick = self.quick or found["quick"]
            table = self.tables.setdefault(found["script"], {})
            for values in found["rows"]:
                row = Row(**values)
                table.setdefault(row.name, {})[python] = row
        self.pythons = sorted(self.about, key=lambda name: tuple(map(int, name.split("."))))

    def rows(self, script: str, name: str) -> dict[str, Row]:
        """
        Return one row, by Python.
        """
        return self.tables.get(script, {}).get(name, {})


def cell(row: Row | None) -> str:
    """
    Return a figure with its least and its most.
    """
    if row is None:
        return ""
    spread = "" if row.low == row.high else f" ({shown(row.low)} to {shown(row.high)})"
    missed = " **missed**" if row.met() is False else ""
    return f"{with_unit(row.value, row.unit)}{spread}{missed}"


def with_unit(number: float, unit: str) -> str:
    """
    Return *number* as people write it.
    """
    return f"{shown(number)}x" if unit == "x" else f"{shown(number)} {unit}".rstrip()


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """
    Return a table.
    """
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def limit(number: float | None, row: Row) -> str:
    """
    Return a bar as it stands in the table.
    """
    if number is None:
        return ""
    return f"{'>=' if row.at_least else '<='} {with_unit(number, row.unit)}"


def promises(measured: Measured) -> str:
    """
    Return the table of what was promised.
    """
    lines: list[list[str]] = []
    for title, script, name in PROMISES:
        rows = measured.rows(script, name)
        if not rows:
            continue
        first = next(iter(rows.values()))
        missed = [
            python for python in measured.pythons if python in rows and rows[python].met() is False
        ]
        by_hand = measured.rows(script, BY_HAND.get(name, ""))
        if first.bar is None:
            met = ""
        elif not missed:
            met = "yes"
        else:
            met = "no" if len(missed) == len(rows) else f"not {', '.join(missed)}"
        lines.append(
            [
                title,
                limit(first.bar, first),
                limit(first.stretch, first),
                *(cell(rows.get(python)).replace(" **missed**", "") for python in measured.pythons),
                met,
                " / ".join(
                    with_unit(by_hand[python].value, by_hand[python].unit)
                    for python in measured.pythons
                    if python in by_hand
                ),
            ]
        )
    return markdown(["what", "must be", "stretch", *measured.pythons, "met", "by hand"], lines)


def found_by(measured: Measured, script: str) -> str:
    """
    Return everything that one script found.
    """
    table = measured.tables.get(script)
    if table is None:
        return "Not measured here.\n"
    lines = [
        [name, *(cell(rows.get(python)) for python in measured.pythons)]
        for name, rows in table.items()
    ]
    return markdown([f"`{script}.py`", *measured.pythons], lines)


def surroundings(measured: Measured) -> str:
    """
    Return what it was measured on.
    """
    lines = []
    for python in measured.pythons:
        about = measured.about[python]
        machine = about["machine"]
        packages = ", ".join(f"{name} {number}" for name, number in about["packages"].items())
        dates = sorted(about["dates"])
        when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
        lines.append(
            [
                about["python"],
                when,
                f"{machine['cpu']}, {machine['cores']} cores, {machine['kernel']}",
                packages,
            ]
        )
    return markdown(["Python", "when", "machine", "packages"], lines)


def values(measured: Measured, script: str, prefix: str) -> dict[str, float]:
    """
    Return the medians of the rows whose names begin with *prefix*, of the first Python that has
    them.
    """
    for python in measured.pythons:
        found = {
            name.removeprefix(prefix): rows[python].value
            for name, rows in measured.tables[script].items()
            if name.startswith(prefix) and python in rows and rows[python].unit != "x"
        }
        if found:
            return found
    return {}


def curves(
    axes: Axes, measured: Measured, prefix: str, numbers: Sequence[float], unit: str = ""
) -> None:
    """
    Draw the rows of scaling.py called ``prefix number unit: title`` as one curve for each title.
    """
    for_each = [values(measured, "scaling", f"{prefix} {each:g}{unit}: ") for each in numbers]
    for title in for_each[0]:
        axes.plot(numbers, [found[title] for found in for_each], marker="o", label=title)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(numbers, [f"{each:g}" for each in numbers])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xlabel(f"{prefix}{unit and f',{unit}'}")
    axes.set_ylabel("us for one event")
    axes.legend(fontsize="small")


def bars(axes: Axes, heights: Mapping[str, float], label: str) -> None:
    """
    Draw one horizontal bar for each name, harken's in another colour.
    """
    names = list(heights)[::-1]
    colours = ["tab:blue" if name.startswith("harken") else "tab:gray" for name in names]
    drawn = axes.barh(names, [heights[name] for name in names], color=colours)
    axes.bar_label(drawn, [shown(heights[name]) for name in names], padding=3, fontsize="small")
    axes.margins(x=0.15)
    axes.set_xlabel(label)


def plot_dispatch(measured: Measured) -> None:
    """
    Draw what publishing to no, one and four handlers costs.
    """
    _, all_axes = plt.subplots(1, 3, figsize=(11, 2.6), sharey=True)
    for axes, handlers in zip(all_axes, (0, 1, 4), strict=True):
        bars(axes, values(measured, "dispatch", f"handlers {handlers}: "), "us")
        axes.set_title(f"handlers: {handlers}", fontsize="medium")


def plot_pipeline(measured: Measured) -> None:
    """
    Draw what an event costs on its way through all outputs.
    """
    _, all_axes = plt.subplots(1, 2, figsize=(11, 2.4), sharey=True)
    for axes, key in zip(all_axes, ("burst cpu", "paced cpu"), strict=True):
        bars(axes, values(measured, "pipeline", f"{key}: "), "us of processor time for one event")
        axes.set_title(key.removesuffix(" cpu"), fontsize="medium")


def plot_audit(measured: Measured) -> None:
    """
    Draw what one audited event costs its publisher.
    """
    found = values(measured, "audit_append", "")
    _, axes = plt.subplots(figsize=(8, 3))
    bars(axes, {name: found[name] for name in found if "group" not in name}, "us for 1 KB")


def plot_scaling(measured: Measured) -> None:
    """
    Draw the cost against the size of the payload and the number of subscribers.
    """
    _, (left, right) = plt.subplots(1, 2, figsize=(11, 3.6))
    curves(left, measured, "payload", (0.1, 1, 10, 100), " KB")
    curves(right, measured, "subscribers", (1, 2, 4, 8, 16, 32, 64))


def plot_million(measured: Measured) -> None:
    """
    Draw the memory of the process while a million events pass.
    """
    _, axes = plt.subplots(figsize=(8, 2.6))
    for python in measured.pythons:
        prefix = "resident memory at "
        curve = {
            int(name.removeprefix(prefix).removesuffix("%")): rows[python].value
            for name, rows in measured.tables["million"].items()
            if name.startswith(prefix) and python in rows
        }
        if curve:
            axes.plot(list(curve), list(curve.values()), marker=".", label=python)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("% of a million events")
    axes.set_ylabel("resident memory, MB")
    axes.legend(fontsize="small")


PLOTS = {
    "dispatch": plot_dispatch,
    "pipeline": plot_pipeline,
    "audit_append": plot_audit,
    "scaling": plot_scaling,
    "million": plot_million,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()
    measured = Measured(options.results.glob("*.json"))
    if not measured.pythons:
        print(f"there are no results in {options.results}; run the scripts with --out")
        return 1
    options.out.mkdir(parents=True, exist_ok=True)
    # Reproducible, small, and with text that stays text.
    plt.rcParams |= {"svg.hashsalt": "harken", "svg.fonttype": "none", "figure.autolayout": True}
    for script, plot in PLOTS.items():
        if script in measured.tables:
            plot(measured)
            plt.savefig(options.out / f"{script}.svg", metadata={"Date": None, "Creator": None})
            plt.close()
    places: dict[str, Callable[[Measured], str]] = {
        "promises": promises,
        "surroundings": surroundings,
        "quick": lambda measured: QUICK if measured.quick else "",
    }

    def filled(place: re.Match[str]) -> str:
        name = place.group(1)
        text = places[name](measured) if name in places else found_by(measured, name)
        return text.rstrip("\n")

    page = PLACE.sub(filled, PAGE.read_text(encoding="utf-8"))
    (options.out / "README.md").write_text(page, encoding="utf-8")
    print(f"wrote {options.out / 'README.md'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
