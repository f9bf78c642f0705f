"""
How long `import harken` takes in a new process, beside what is imported with it or instead of it.

Each figure is the median of new processes, in which nothing but the import is measured; the files
are in the page cache. That no library of a sink is loaded is checked.
"""

from __future__ import annotations

import subprocess
import sys
from functools import partial

from measure import begin, interleaved

PROGRAM = """
import sys, time
begun = time.perf_counter()
{imports}
print(time.perf_counter() - begun, ",".join(sys.modules))
"""
IMPORTS = {
    "import harken": "import harken",
    "import harken.catalog": "import harken.catalog",
    "harken with all four sinks": (
        "import harken; from harken.sinks import audit, otel, prometheus, structlog"
    ),
    "import blinker, msgspec": "import blinker, msgspec",
    "import logging, json": "import logging, json",
    "import opentelemetry.sdk.trace": "import opentelemetry.sdk.trace",
    "import llama_index_instrumentation": "import llama_index_instrumentation",
}
FOREIGN = {"opentelemetry", "prometheus_client", "structlog", "orjson", "re2", "click", "rich"}


def seconds(imports: str, *, alone: bool) -> float:
    """
    Return the seconds that *imports* takes in a new process.
    """
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(imports=imports)],
        capture_output=True,
        text=True,
        check=True,
    )
    taken, modules = done.stdout.split()
    loaded = {name.partition(".")[0] for name in modules.split(",")} & FOREIGN
    if alone and loaded:
        raise RuntimeError(f"{imports} loads {', '.join(sorted(loaded))}")
    return float(taken)


def main() -> int:
    results = begin(__doc__, __file__, rounds=21, quick=3)
    found = interleaved(
        {
            title: partial(seconds, imports, alone=title == "import harken")
            for title, imports in IMPORTS.items()
        },
        results.rounds,
    )
    for title, values in found.items():
        bars = {"bar": 80.0, "stretch": 50.0} if title == "import harken" else {}
        results.add(title, [value * 1e3 for value in values], "ms", **bars)
    results.save()
    return 0


if __name__ == "__main__":
    sys.exit(main())
