"""
The checks of harken, one session each. `nox` runs all that decide whether a change is good.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import nox

nox.needs_version = ">=2025.5.1"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_venv = "yes"
nox.options.error_on_external_run = True
# A Python that this machine lacks is named as skipped, here and in CI.
nox.options.error_on_missing_interpreters = False
nox.options.sessions = [
    "lint",
    "tests",
    "types",
    "behave",
    "minimum",
    "docs",
    "build",
    "coverage_report",
]

# Asked for all, nox runs two sessions at a time, each in a process of its own; a session that is
# asked for by name shows what it does while it does it. Older versions run one after the other.
if len(sys.argv) == 1 and hasattr(nox.options, "parallel"):
    nox.options.parallel = 2
    nox.options.allow_parallel = True

PYPROJECT = nox.project.load_toml("pyproject.toml")
PYTHONS = nox.project.python_versions(PYPROJECT)
# Frameworks that do not fit into one environment with others, or are too big for each run.
HEAVY = ("claude", "crewai", "google-adk", "mcp", "strands")
LIGHT = ("langchain", "openai-agents", "pydantic-ai")
EXTRAS = ",".join(
    name for name in PYPROJECT["project"]["optional-dependencies"] if name not in HEAVY
)
PYTHON_FILES = (
    "src",
    "tests",
    "features",
    "benchmarks",
    "deploy",
    "docs/site",
    "examples",
    "noxfile.py",
)
TYPED_FILES = ("src", "tests/typing/api.py")
nox.options.sessions += [f"frameworks({name})" for name in LIGHT]
BENCHMARKS = (
    *("dispatch", "caller", "pipeline", "stages", "audit_append", "scaling", "memory", "scrape"),
    *("import_time", "contract_start", "verifying", "writers", "unused", "million"),
    "blocked_exporter",
)
FEW_EXAMPLES = {"HARKEN_FEW_EXAMPLES": "1"}
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

# Most of what is installed is never imported, so `install()` compiles nothing; what is imported
# is compiled then, and must be kept, or each of thousands of processes would compile it again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def session(**options: Any) -> Callable[[Callable[..., None]], Any]:
    """
    Make a session whose environment goes when it has succeeded in CI: together they take 6 GB.
    """

    def decorate(check: Callable[..., None]) -> Any:
        @wraps(check)
        def run(session: nox.Session, *args: Any, **kwargs: Any) -> None:
            check(session, *args, **kwargs)
            if "CI" in os.environ:
                # What is left of it is no reason to fail.
                shutil.rmtree(session.virtualenv.location, ignore_errors=True)

        return nox.session(run, **options)

    return decorate


def install(session: nox.Session, group: str, package: str | None = None) -> None:
    """
    Install what *group* of pyproject.toml names, together with *package*.
    """
    packages = [] if package is None else [package]
    session.install("--no-compile", *nox.project.dependency_groups(PYPROJECT, group), *packages)


def recorded(python: object) -> Path:
    """
    Return where the results of the features on *python* are kept for the site.
    """
    return Path.cwd() / "build" / "features" / f"{python}.json"


def run_module(session: nox.Session, module: str, *args: str, **env: str) -> None:
    """
    Run *module*; on the first Python under coverage, with every process that it starts, in a data
    file of this session. Hardly a line depends on the Python.
    """
    if session.python != PYTHONS[0]:
        session.run("python", "-m", module, *args, env=env)
        return
    data = Path.cwd() / f".coverage.{session.name}"
    # What an earlier run measured is no evidence for the code of today.
    for stale in data.parent.glob(f"{data.name}*"):
        stale.unlink()
    session.run("coverage", "run", "-m", module, *args, env={"COVERAGE_FILE": str(data), **env})


def run_features(session: nox.Session) -> Path:
    """
    Run the features, and return where what came of them is kept, once all have run.
    """
    results = recorded(session.python or f"{sys.version_info.major}.{sys.version_info.minor}")
    results.parent.mkdir(parents=True, exist_ok=True)
    unfinished = results.with_suffix(".part")
    kept = ("--format=json", f"--outfile={unfinished}", "--format=progress")
    run_module(session, "behave", *kept)
    return unfinished.replace(results)


@session()
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


@session()
def types(session: nox.Session) -> None:
    """
    mypy and pyright, both strict, on the package and on the examples of its use.
    """
    install(session, "types", f".[{EXTRAS}]")
    session.run("mypy", *TYPED_FILES)
    session.run("pyright")


@session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """
    The tests with every optional library, on each Python found; what costs much, on the first.
    """
    install(session, "test", f".[{EXTRAS}]")
    install(session, "frameworks")
    chosen, env = ["--ignore=tests/test_docs.py"], {}
    if session.python != PYTHONS[0]:
        chosen += ["-m", "not once"]
        env = FEW_EXAMPLES
    run_module(session, "pytest", *(session.posargs or chosen), **env)


@session(python=PYTHONS)
def behave(session: nox.Session) -> None:
    """
    The features, on each Python found; what came of them is kept for the site.
    """
    install(session, "test", f".[{EXTRAS}]")
    install(session, "frameworks")
    if session.posargs:
        run_module(session, "behave", *session.posargs)
    else:
        run_features(session)


@session(requires=[f"{name}-{PYTHONS[0]}" for name in ("tests", "behave")])
def coverage_report(session: nox.Session) -> None:
    """
    Branch coverage of the package by tests and features together, which run first.
    """
    session.install(*(d for d in PYPROJECT["dependency-groups"]["test"] if "coverage" in d))
    session.run("coverage", "combine")
    session.run("coverage", "report")


@session(python=PYTHONS[0])
def minimum(session: nox.Session) -> None:
    """
    The tests with no optional library and the lowest versions that pyproject.toml allows.
    """
    lowest = [d.replace(">=", "==") for d in PYPROJECT["project"]["dependencies"]]
    group = nox.project.dependency_groups(PYPROJECT, "test")
    session.install("--no-compile", *group, *lowest, ".")
    chosen = session.posargs or ["--ignore=tests/test_docs.py", "-m", "not once"]
    session.run("pytest", *chosen, env=FEW_EXAMPLES)
    if not session.posargs:
        # How an answer looks is up to the libraries that show it.
        session.run("pytest", "tests/cli/test_reading.py")


@session(python=PYTHONS[0])
@nox.parametrize("framework", [nox.param(name, id=name) for name in (*LIGHT, *HEAVY)])
def frameworks(session: nox.Session, framework: str) -> None:
    """
    The adapter of one framework, with nothing else installed; `nox -s "frameworks(claude)"`.
    """
    install(session, "test", f".[{framework}]")
    if framework == "langchain":
        install(session, "frameworks")
    module = framework.replace("-", "_")
    # A test that is skipped would show nothing.
    env = {"HARKEN_REQUIRE_FRAMEWORKS": "1"}
    session.run("pytest", f"tests/adapters/test_{module}.py", env=env)
    # The light ones are where all of the package is checked.
    if framework in HEAVY:
        install(session, "types", ".[sign]")
        # Only the adapter: what else there is meets other versions of its libraries here.
        path = f"src/harken/adapters/{module}.py"
        session.run("mypy", "--follow-imports=silent", path)


@session()
def faults(session: nox.Session) -> None:
    """
    Long runs: killed writers, failing system calls, crowds, secrets, and a log of 1 GB.
    """
    install(session, "test", f".[{EXTRAS}]")
    for script in sorted(Path("tests/faults").glob("*.py")):
        session.run("python", str(script), *session.posargs)


@session()
def mutants(session: nox.Session) -> None:
    """
    300 small changes to the core, the record and redaction, and which test or scenario notices.
    """
    install(session, "test", f".[{EXTRAS}]")
    session.run("python", "tests/mutants", *session.posargs)


@session(python=PYTHONS[0])
def phoenix(session: nox.Session) -> None:
    """
    Spans read back from Arize Phoenix (0.85 GB), and a collector that is away for half a minute.
    """
    install(session, "test", f".[{EXTRAS}]")
    # Its dependencies are none of ours.
    folder = Path(session.create_tmp()).resolve() / "phoenix"
    command = folder / "bin" / "phoenix"
    if not command.exists():
        session.run("python", "-m", "venv", "--clear", str(folder))
        pip = (str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet")
        session.run(*pip, "arize-phoenix>=20", external=True, success_codes=range(256))
    if not command.exists():
        session.skip("Arize Phoenix cannot be installed here")
    env = {"PHOENIX_COMMAND": str(command), "OUTAGE_SECONDS": "30"}
    files = ("tests/sinks/test_otel_phoenix.py", "tests/sinks/test_otel_outage.py")
    session.run("pytest", *(session.posargs or files), env=env)


@session(python=PYTHONS)
def bench(session: nox.Session) -> None:
    """
    What things cost, beside what others cost in the same run; writes docs/performance.
    """
    install(session, "bench", f".[{EXTRAS}]")
    folder = Path("docs/performance")
    if "--quick" in session.posargs:
        # Figures of a few seconds are no figures to keep.
        folder = Path(session.create_tmp()).resolve()
    session.run(
        "mypy", "--ignore-missing-imports", *(f"benchmarks/{name}.py" for name in BENCHMARKS)
    )
    for script in BENCHMARKS:
        out = ("--out", str(folder / "results"))
        session.run("python", f"benchmarks/{script}.py", *out, *session.posargs)
    paths = ("--results", str(folder / "results"), "--out", str(folder))
    session.run("python", "benchmarks/report.py", *paths)


@session(python=PYTHONS)
def build(session: nox.Session) -> None:
    """
    The distributions, and a first run of each where nothing else is installed; with a bill of
    materials (CycloneDX) of what then is, in build/sbom.json.
    """
    install(session, "build")
    folder = Path(session.create_tmp()).resolve()
    for left in folder.iterdir():
        shutil.rmtree(left)
    session.run("python", "-m", "build", "--outdir", str(folder / "dist"))
    (wheel,) = (folder / "dist").glob("*.whl")
    (sdist,) = (folder / "dist").glob("*.tar.gz")
    python = first_run(session, folder / "wheel", wheel)
    if session.python == PYTHONS[0]:
        first_run(session, folder / "sdist", sdist)
        Path("build").mkdir(exist_ok=True)
        options = ("--output-reproducible", "--pyproject", "pyproject.toml")
        sbom = ("--output-file", "build/sbom.json", str(python))
        session.run("cyclonedx-py", "environment", *options, *sbom)


def first_run(session: nox.Session, folder: Path, distribution: Path) -> Path:
    """
    Install *distribution* in an environment of its own, run it, and return that one's Python.
    """
    session.run("python", "-m", "venv", "--clear", str(folder))
    python = folder / "bin" / "python"
    pip = (str(python), "-m", "pip", "--quiet", "--disable-pip-version-check")
    session.run(*pip, "install", str(distribution), external=True)
    session.run(*pip, "check", external=True)
    typed = "import importlib.resources as r; assert (r.files('harken') / 'py.typed').is_file()"
    harken = str(python.with_name("harken"))
    with session.chdir(folder):
        session.run(str(python), "-c", typed, external=True)
        session.run(harken, "version", external=True)
        session.run(harken, "demo", "--out", "demo", external=True)
    return python


@session()
def big_log(session: nox.Session) -> None:
    """
    How long questions to a log of more than 1 GB take, beside jq and DuckDB.
    """
    install(session, "bench", f".[{EXTRAS}]")
    session.run("python", "benchmarks/big_log.py", *session.posargs)


@session()
def docs(session: nox.Session) -> None:
    """
    Every code block of README.md, docs and docstrings, run; and the site, in build/site, without
    a warning.
    """
    install(session, "docs", f".[{EXTRAS}]")
    install(session, "frameworks")
    session.run("pytest", "tests/test_docs.py", *session.posargs)
    told_of = [*Path("src").rglob("*.py"), *Path("features").rglob("*.*")]
    changed = max(path.stat().st_mtime for path in told_of if "__pycache__" not in path.parts)
    results = [path for path in map(recorded, PYTHONS) if path.exists()]
    # What an earlier run said is no evidence for the code of today.
    results = [path for path in results if path.stat().st_mtime > changed]
    if not results:
        results = [run_features(session)]
    sources = "build/site-sources"
    session.run("python", "docs/site/assemble.py", sources, *map(str, results))
    options = ("--fail-on-warning", "--keep-going", "--fresh-env", "--quiet")
    session.run("python", "-m", "sphinx", *options, "-c", "docs/site", sources, "build/site")
