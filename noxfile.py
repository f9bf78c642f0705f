"""
The checks of harken, one session each. `nox` runs all that decide whether a change is good.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
from pathlib import Path

import nox

nox.needs_version = ">=2025.5.1"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_venv = "yes"
nox.options.error_on_external_run = True
# A Python that this machine lacks is named as skipped, here and in CI.
nox.options.error_on_missing_interpreters = False
nox.options.sessions = [
    "lint",
    "types",
    "tests",
    "behave",
    "coverage_report",
    "minimum",
    "build",
    "docs",
]

PYPROJECT = nox.project.load_toml("pyproject.toml")
PYTHONS = nox.project.python_versions(PYPROJECT)
EXTRAS = ",".join(PYPROJECT["project"]["optional-dependencies"])
PYTHON_FILES = ("src", "tests", "features", "benchmarks", "noxfile.py")
TYPED_FILES = ("src", "tests/typing/api.py")
BENCHMARKS = (
    *("dispatch", "caller", "pipeline", "audit_append", "scaling", "memory", "scrape"),
    *("import_time", "verifying", "writers", "unused", "million", "blocked_exporter"),
)
SUPPRESSION = re.compile(r"#\s*(type:\s*ignore|pyright:|mypy:|noqa|ruff:|pragma:)")


def reveal_pyenv() -> None:
    """
    Let nox find every Python that pyenv has installed, not only the selected one.
    """
    root = os.environ.get("PYENV_ROOT")
    if root is None or "PYENV_VERSION" in os.environ:
        return
    installed = [path.name for path in Path(root, "versions").glob("3.*") if path.is_dir()]
    wanted = [name for name in sorted(installed) if name.rpartition(".")[0] in PYTHONS]
    if wanted:
        os.environ["PYENV_VERSION"] = ":".join(wanted)


reveal_pyenv()

# A shell starts a job in the background with interrupts ignored, and whoever it starts
# inherits that; what harken does on an interrupt would then never be seen.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def install(session: nox.Session, group: str, package: str | None = None) -> None:
    """
    Install what *group* of pyproject.toml names, together with *package*.
    """
    packages = [] if package is None else [package]
    session.install(*nox.project.dependency_groups(PYPROJECT, group), *packages)


def run_measured(session: nox.Session, module: str, *args: str) -> None:
    """
    Run *module* and every process it starts under coverage, in a data file of this session.
    """
    install(session, "test", f".[{EXTRAS}]")
    data = Path.cwd() / f".coverage.{session.name}"
    # What an earlier run measured is no evidence for the code of today.
    for stale in data.parent.glob(f"{data.name}*"):
        stale.unlink()
    session.run("coverage", "run", "-m", module, *args, env={"COVERAGE_FILE": str(data)})


@nox.session
def lint(session: nox.Session) -> None:
    """
    Style, form, the import directions, and no suppressions in src.
    """
    install(session, "lint")
    session.run("ruff", "check", *PYTHON_FILES)
    session.run("ruff", "format", "--check", *PYTHON_FILES)
    session.run("lint-imports", env={"PYTHONPATH": "src"})
    suppressed = [
        f"{path}:{number}: {line.strip()}"
        for path in sorted(Path("src").rglob("*.py"))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if SUPPRESSION.search(line)
    ]
    if suppressed:
        session.error("src silences a checker:\n" + "\n".join(suppressed))


@nox.session
def types(session: nox.Session) -> None:
    """
    mypy and pyright, both strict, on the package and on the examples of its use.
    """
    install(session, "types", f".[{EXTRAS}]")
    session.run("mypy", *TYPED_FILES)
    session.run("pyright")


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """
    The tests with every optional library, on each Python found; what costs much, on the first.
    """
    chosen = ["--ignore=tests/test_docs.py"]
    if session.python != PYTHONS[0]:
        chosen += ["-m", "not once"]
    run_measured(session, "pytest", *(session.posargs or chosen))


@nox.session(python=PYTHONS)
def behave(session: nox.Session) -> None:
    """
    The features, on each Python found.
    """
    run_measured(session, "behave", *(session.posargs or ["--format=progress"]))


@nox.session(requires=[f"{name}-{python}" for name in ("tests", "behave") for python in PYTHONS])
def coverage_report(session: nox.Session) -> None:
    """
    Branch coverage of the package by tests and features together, which run first.
    """
    session.install(*(d for d in PYPROJECT["dependency-groups"]["test"] if "coverage" in d))
    session.run("coverage", "combine")
    session.run("coverage", "report")


@nox.session(python=PYTHONS[0])
def minimum(session: nox.Session) -> None:
    """
    The tests with no optional library and the lowest versions that pyproject.toml allows.
    """
    lowest = [d.replace(">=", "==") for d in PYPROJECT["project"]["dependencies"]]
    session.install(*nox.project.dependency_groups(PYPROJECT, "test"), *lowest, ".")
    session.run("pytest", *(session.posargs or ["--ignore=tests/test_docs.py", "-m", "not once"]))


@nox.session
def faults(session: nox.Session) -> None:
    """
    Long runs: killed writers, failing system calls, crowds, secrets, and a log of 1 GB.
    """
    install(session, "test", f".[{EXTRAS}]")
    for script in sorted(Path("tests/faults").glob("*.py")):
        session.run("python", str(script), *session.posargs)


@nox.session(python=PYTHONS)
def bench(session: nox.Session) -> None:
    """
    What things cost, beside what others cost in the same run; writes docs/performance.
    """
    install(session, "bench", f".[{EXTRAS}]")
    folder = Path("docs/performance")
    if "--quick" in session.posargs:
        # Figures of a few seconds are no figures to keep.
        folder = Path(session.create_tmp()).resolve()
    for script in BENCHMARKS:
        out = ("--out", str(folder / "results"))
        session.run("python", f"benchmarks/{script}.py", *out, *session.posargs)
    paths = ("--results", str(folder / "results"), "--out", str(folder))
    session.run("python", "benchmarks/report.py", *paths)


@nox.session
def build(session: nox.Session) -> None:
    """
    The distributions, and a first run of the wheel where nothing else is installed.
    """
    install(session, "build")
    folder = Path(session.create_tmp()).resolve()
    for left in folder.iterdir():
        shutil.rmtree(left)
    session.run("python", "-m", "build", "--outdir", str(folder / "dist"))
    (wheel,) = (folder / "dist").glob("*.whl")
    session.run("python", "-m", "venv", "--clear", str(folder / "venv"))
    python = folder / "venv" / "bin" / "python"
    session.run(str(python), "-m", "pip", "install", "--quiet", str(wheel), external=True)
    harken = str(python.with_name("harken"))
    with session.chdir(folder):
        session.run(harken, "version", external=True)
        session.run(harken, "demo", "--out", "demo", external=True)


@nox.session
def docs(session: nox.Session) -> None:
    """
    Every code block of README.md and docs, run.
    """
    install(session, "docs", f".[{EXTRAS}]")
    session.run("pytest", "tests/test_docs.py", *session.posargs)
