"""
How far forwarding is, as a file for node_exporter's textfile collector.
"""

from __future__ import annotations

from pathlib import Path

from harken.forward.events import ForwardMeasured


def write_metrics(path: Path, measured: ForwardMeasured, counted: tuple[int, int, int]) -> None:
    """
    Write the file at *path* as a whole.

    Args:
        counted: How many lines were taken and rejected, and how many failures there were so far.

    Raises:
        OSError: It cannot be written.
    """
    records, rejected, failures = counted
    labels = f'{{source="{measured.source}",target="{measured.target}"}}'
    lines = [
        f"# HELP harken_forward_{name} {text}\n# TYPE harken_forward_{name} {kind}\n"
        f"harken_forward_{name}{labels} {value}\n"
        for name, kind, value, text in (
            ("lag_bytes", "gauge", measured.lag_bytes, "Bytes of the log that are not there."),
            ("lag_seconds", "gauge", measured.lag_seconds, "Age of the oldest line not there."),
            ("stalled", "gauge", int(measured.stalled), "Whether it stands still, or has ended."),
            ("records_total", "counter", records, "Lines that the engine took."),
            ("rejected_total", "counter", rejected, "Lines that nobody would take."),
            ("failures_total", "counter", failures, "Failures of engine or log."),
        )
    ]
    new = path.with_name(f"{path.name}.new")
    new.write_text("".join(lines), encoding="utf-8")
    new.replace(path)
