"""
The features as chapters, with what became of each scenario when it was last run.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

from behave.model import Feature, Rule, Scenario, ScenarioOutline, Step
from behave.parser import parse_file
from reference import table

ROOT = Path(__file__).resolve().parents[2]
FEATURES = ROOT / "features"
MARKS = {"passed": "✔ passed", "failed": "✘ failed", "skipped": "– skipped"}
NOT_RUN = "not run"

Results: TypeAlias = Mapping[str, Mapping[str, str]]
"""From the name of a Python to what became of the scenario at each place."""


def pages(files: list[Path]) -> dict[str, str]:
    """
    Return the pages by name.
    """
    results = {path.stem: _results(path) for path in files}
    chapters = {
        folder.name: [
            feature
            for path in sorted(folder.glob("*.feature"))
            if (feature := parse_file(str(path.relative_to(ROOT))))
        ]
        for folder in sorted(FEATURES.iterdir())
        if any(folder.glob("*.feature"))
    }
    dates = [datetime.fromtimestamp(path.stat().st_mtime, UTC) for path in files]
    when = f"{max(dates):%Y-%m-%d %H:%M} UTC" if dates else "never"
    made = {
        f"behaviour/{name}.md": _chapter(name, features, results, when)
        for name, features in chapters.items()
    }
    return {"behaviour/index.md": _index(chapters, results, when), **made}


def _results(path: Path) -> dict[str, str]:
    return {
        _key(scenario["location"], scenario["name"]): (
            scenario["status"] or _of_steps(scenario["steps"])
        )
        for feature in json.loads(path.read_text(encoding="utf-8"))
        for scenario in feature.get("elements", ())
        if scenario["type"] == "scenario"
    }


def _key(location: object, name: str) -> str:
    # The place alone may be that of another scenario by now.
    return f"{location} {name.strip()}"


def _of_steps(steps: list[dict[str, Any]]) -> str:
    # The formatter leaves the status of some scenarios out, never that of a step that was run.
    became = {step.get("result", {}).get("status", NOT_RUN) for step in steps}
    return "passed" if became == {"passed"} else "failed"


def _index(chapters: Mapping[str, list[Feature]], results: Results, when: str) -> str:
    pythons = ", ".join(sorted(results)) or "none"
    rows = []
    for name, features in chapters.items():
        counts = Counter(_status(one, results) for one in _scenarios(features))
        became = ", ".join(f"{count} {word}" for word, count in counts.items())
        titles = "; ".join(feature.name for feature in features)
        rows.append((f"[{name.capitalize()}]({name}.md)", titles, became))
    listed = "\n".join(f"{name}.md" for name in chapters)
    return (
        "# Behaviour\n\n"
        "What harken does, promise by promise, in the words of those who rely on it.\n"
        "Each scenario is a test that is run, not an illustration.\n\n"
        f"Last run: {when}, on Python {pythons}.\n"
        "A scenario passed when it passed on each of them.\n\n"
        f"{table(('capability', 'features', 'scenarios'), rows)}\n"
        f"```{{toctree}}\n:hidden:\n\n{listed}\n```\n"
    )


def _chapter(name: str, features: list[Feature], results: Results, when: str) -> str:
    parts = [f"# {name.capitalize()}\n", f"Last run: {when}.\n"]
    for feature in features:
        parts += [f"## {feature.name}\n", "\n".join(map(str, feature.description)) + "\n"]
        for item in feature.run_items:
            if isinstance(item, Rule):
                parts.append(f"### {item.name}\n")
                parts += [_scenario(one, results) for one in item.run_items]
            else:
                parts.append(_scenario(item, results))
    return "\n".join(parts)


def _scenario(scenario: Scenario | ScenarioOutline, results: Results) -> str:
    status = _status(scenario, results)
    lines = [
        f":::{{admonition}} {scenario.name}",
        f":class: scenario {status.replace(' ', '-')}",
        "",
    ]
    lines += [f"{MARKS.get(status, status)}", "", "```text"]
    for step in scenario.steps:
        lines += _step(step)
    for examples in getattr(scenario, "examples", ()):
        rows = [examples.table.headings, *(row.cells for row in examples.table.rows)]
        lines += ["", "Examples:", *_aligned(rows)]
    return "\n".join([*lines, "```", ":::\n"])


def _step(step: Step) -> Iterator[str]:
    yield f"{step.keyword} {step.name}"
    if step.table is not None:
        yield from _aligned([step.table.headings, *(row.cells for row in step.table.rows)])
    if step.text is not None:
        yield from (f"    {line}".rstrip() for line in step.text.splitlines())


def _aligned(rows: list[list[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        yield f"    | {' | '.join(cells)} |"


def _scenarios(features: Iterable[Feature]) -> Iterator[Scenario | ScenarioOutline]:
    for feature in features:
        for item in feature.run_items:
            yield from item.run_items if isinstance(item, Rule) else [item]


def _status(scenario: Scenario | ScenarioOutline, results: Results) -> str:
    """
    Return the worst that became of *scenario*, or of an outline's rows, on any Python.
    """
    rows = getattr(scenario, "scenarios", [scenario])
    became = {
        run.get(_key(row.location, row.name), NOT_RUN) for run in results.values() for row in rows
    }
    for word in ("failed", "error", "hook_error", "undefined", NOT_RUN, "skipped", "passed"):
        if word in became:
            return word
    return next(iter(became), NOT_RUN)
