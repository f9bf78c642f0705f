"""
What the contract costs a command-line tool: an app of click, bare and adopted, in new processes.

The start is what passes until the first line of the command's own code runs; the rest is what is
loaded and written for the record when the command has ended. Both are CPU time, as the kernel
counts it for each process, with the files in the page cache.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from measure import begin, interleaved

APP = """
import sys, time
import click

@click.group()
def cli(): pass

@cli.command()
@click.option("--env")
def deploy(env):
    print(time.process_time(), file=sys.stderr)
    print("deployed to", env)
    return {{"env": env}}

{adopt}
"""
APPS = {
    "bare": 'cli(["deploy", "--env", "staging"])',
    "adopted": (
        "from harken.contract import contract\n"
        'contract(cli, tool="deployctl")(["deploy", "--env", "staging", "--output", "text"])'
    ),
    "harken imported": 'import harken\ncli(["deploy", "--env", "staging"])',
}
BAR_MS = 30.0
"""What may be added to the start of an app that takes `CLICK_MS`."""

CLICK_MS = 32.0


def seconds(program: Path, folder: Path, *, whole: bool) -> float:
    """
    Return the seconds until the command's own code runs, or until the process has ended.
    """
    process = subprocess.Popen(
        [sys.executable, program],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "XDG_DATA_HOME": str(folder)},
    )
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(said.decode())
    return used.ru_utime + used.ru_stime if whole else float(said)


def main() -> int:
    results = begin(__doc__, __file__, rounds=21, quick=3)
    with tempfile.TemporaryDirectory(prefix="harken-benchmark-") as name:
        folder = Path(name)
        samples = {}
        for title, adopt in APPS.items():
            program = folder / f"{title}.py"
            program.write_text(APP.format(adopt=adopt))
            samples[title] = partial(seconds, program, folder, whole=False)
            samples[f"{title}, whole"] = partial(seconds, program, folder, whole=True)
        found = interleaved(samples, results.rounds)
    results.compare(
        "start: adopted app / bare app",
        found["adopted"],
        found["bare"],
        bar=(CLICK_MS + BAR_MS) / CLICK_MS,
    )
    results.compare(
        "start: app that imports harken / bare app", found["harken imported"], found["bare"]
    )
    results.compare(
        "whole process: adopted app / bare app", found["adopted, whole"], found["bare, whole"]
    )
    for title, values in found.items():
        results.add(f"CPU: {title}", [value * 1e3 for value in values], "ms")
    results.save()
    return 0


if __name__ == "__main__":
    sys.exit(main())
