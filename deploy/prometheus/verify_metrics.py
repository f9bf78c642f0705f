"""
Run ``harken verify`` and leave what it found for node-exporter's textfile collector.

    python verify_metrics.py TEXTFILE LOG [OPTION OF harken verify]...

TEXTFILE ends in ``.prom``, and is replaced as a whole. The exit code is that of ``harken verify``.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Gauge, write_to_textfile

UNDECIDED = 2
PARTS = ("chain", "seals", "completeness", "tail")
VERDICTS = ("ok", "tampered", "undecided", "incomplete", "none")


def verify(log: str, options: list[str]) -> Mapping[str, Any]:
    """
    Return the report on *log*; what fails without one is a log that cannot be judged.
    """
    command = [sys.executable, "-m", "harken", "verify", log, "--json", *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    try:
        report: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        report = {"verdict": "undecided", "exit_code": UNDECIDED}
    return report


def metrics(log: str, report: Mapping[str, Any]) -> CollectorRegistry:
    """
    Return *report* as metrics.
    """
    registry = CollectorRegistry()
    verdict = Gauge(
        "harken_verify_verdict",
        "1 for the verdict on the audit log and on each part that is judged, 0 for the others.",
        ("log", "part", "verdict"),
        registry=registry,
    )
    found = {"whole": report["verdict"]}
    found |= {part: report.get(part, {"verdict": "none"})["verdict"] for part in PARTS}
    for part, word in found.items():
        for other in VERDICTS:
            verdict.labels(log, part, other).set(word == other)
    Gauge(
        "harken_verify_records",
        "Lines of the audit log that were read.",
        ("log",),
        registry=registry,
    ).labels(log).set(report.get("lines", 0))
    Gauge(
        "harken_verify_last_run_timestamp_seconds",
        "When the audit log was last judged, in seconds since 1970-01-01 UTC.",
        ("log",),
        registry=registry,
    ).labels(log).set_to_current_time()
    return registry


def main(arguments: list[str]) -> int:
    """
    Do what the module says.
    """
    if len(arguments) < 2:
        print(__doc__, file=sys.stderr)
        return UNDECIDED
    textfile, log, *options = arguments
    report = verify(log, options)
    exit_code: int = report["exit_code"]
    try:
        write_to_textfile(textfile, metrics(log, report), escaping="underscores")
    except OSError as error:
        print(f"cannot write to {textfile}: {error.strerror}", file=sys.stderr)
        return exit_code or UNDECIDED
    return exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
