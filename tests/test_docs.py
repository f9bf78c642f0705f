"""
Every code block of README.md, docs and the docstrings of src, run.

The info string of a block says what becomes of it. `python`: run, all blocks of a file as
one program; `python FILE`: written to that file instead, to be imported or run. `console`: each
line after `$` is run by bash in the same folder, must exit with 0, and prints what stands below
it, where `...` stands for anything and white space does not count. `json`, `toml` and `yaml`:
parsed; the commands of a `[project.scripts]` can be run from then on. `text`: shown only, and no
code.

What takes more than there is here is `python compiled`: compiled, and what it imports from harken
is there; or `bash`: its syntax and its options of harken are right.

A page begins in an empty folder, an example in a copy of its own, and how to contribute in what
stands for a clone; a module's blocks in a folder with the audit log of a demo, which is also what
they get as argument.
"""

from __future__ import annotations

import ast
import doctest
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
import tomllib
import types
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "clerk" / "README.md"
TOP_PAGES = [ROOT / name for name in ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")]
PAGES = [ROOT / "README.md", *TOP_PAGES, *sorted((ROOT / "docs").rglob("*.md")), EXAMPLE]
MODULES = sorted((ROOT / "src").rglob("*.py"))
# A block of a docstring begins with its directive, or with nothing but two colons.
DIRECTIVE = re.compile(r"^( *)\.\. (?:code-block|code|sourcecode)::(.*)$|^( *)(?!\.\. ).*::$")
# A target with a scheme, or with none before its slashes: in brackets, or pointed ones.
LINK = re.compile(r"\]\((https?:[^)]*|\w+://[^)]*|//[^)]*)\)|<(\w+://[^>]*)>")
HOST = r"[\w-]+(\.[\w-]+)+(:\d+)?"
# What a line begins with that somebody would copy.
CODE = re.compile(r"^ *(?:import |from \w|\$ |harken |pip |python ).*", re.MULTILINE)
# Each of these runs as a nox session, or is what runs the sessions, or makes their environments.
RUN_ELSEWHERE = {
    ".venv/bin/nox -s lint types",
    ".venv/bin/nox -s tests-3.11 -- tests/test_event.py",
    ".venv/bin/pip install --group dev --editable '.[otlp]'",
    ".venv/bin/pip install --upgrade pip",
    "nox",
    "nox -s lint",
    "nox -s tests-3.12 -- tests/test_bus.py -k fork",
    "pip install .",
    "pip install harken",
    "pip install harken pytest behave",
    "pip install nox",
    "pip install nox && nox",
    "python -m venv .venv",
    "python tests/test_snapshots.py --write",
}


@dataclass(frozen=True)
class Block:
    """
    A fenced block: its info string, the number of its first line, and its text.
    """

    kind: str
    line: int
    text: str


class ExampleError(Exception):
    """
    A block does not do what its page shows.
    """


def blocks(page: str) -> Iterator[Block]:
    """
    Yield the fenced blocks of *page*, in order, with the indentation of the fence removed.
    """
    fence, indent, kind, start, lines = "", 0, "", 0, list[str]()
    for number, line in enumerate(page.splitlines(), 1):
        text = line.lstrip(" ")
        if not fence and text.startswith("```"):
            kind = text.lstrip("`").strip()
            fence = text[: len(text) - len(text.lstrip("`"))]
            indent, start, lines = len(line) - len(text), number + 1, []
        elif fence and text.rstrip() == fence:
            yield Block(kind, start, "".join(f"{line}\n" for line in lines))
            fence = ""
        elif fence:
            lines.append(line[indent:] if line[:indent].isspace() else line)
    if fence:
        raise ExampleError(f"line {start - 1}: the block has no end")


def docstrings(source: str) -> Iterator[tuple[int, str]]:
    """
    Yield the number of the first line and the text of each string in *source* that stands alone.
    """
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Expr(value=ast.Constant(value=str(text))):
                yield node.lineno, text


def blocks_of_docstrings(source: str) -> Iterator[Block]:
    """
    Yield the blocks in the docstrings of *source*, in order, with their indentation removed.
    """
    for first, text in sorted(docstrings(source)):
        lines = text.splitlines()
        for number, line in enumerate(lines):
            if line.lstrip().startswith(">>> "):
                yield Block("doctest", first + number, line)
            if found := DIRECTIVE.match(line):
                margin = len(found[1] if found[1] is not None else found[3])
                below = takewhile(partial(is_deeper, margin), lines[number + 1 :])
                body = textwrap.dedent("\n".join(below))
                yield Block((found[2] or "").strip(), first + number + 1, f"{body}\n")


def is_deeper(margin: int, line: str) -> bool:
    return not line.strip() or len(line) - len(line.lstrip()) > margin


def blocks_at(path: Path) -> list[Block]:
    """
    Return the blocks of the page, or of the module, at *path*.
    """
    text = path.read_text(encoding="utf-8")
    return list(blocks_of_docstrings(text) if path.suffix == ".py" else blocks(text))


def ill_formed_links(text: str) -> Iterator[str]:
    """
    Yield what stands in *text* where a link to elsewhere does, and is none.
    """
    for found in LINK.finditer(text):
        target = found[1] or found[2]
        parts = urlsplit(target)
        if parts.scheme not in {"http", "https"} or not re.fullmatch(HOST, parts.netloc):
            yield target


def commands(block: Block) -> Iterator[tuple[int, str, str]]:
    """
    Yield the line number, the command and the expected output of each prompt in *block*.
    """
    number, command, expected = block.line, "", ""
    for offset, line in enumerate(block.text.splitlines(keepends=True)):
        if line.startswith("$ "):
            if command:
                yield number, command, expected
            number, command, expected = block.line + offset, line[2:].rstrip("\n"), ""
        elif command.endswith("\\"):
            command += "\n" + line.removeprefix("> ").rstrip("\n")
        elif command:
            expected += line
        else:
            raise ExampleError(f"line {block.line}: a console block begins with a prompt, '$ '")
    if command:
        yield number, command, expected


def run_console(block: Block) -> None:
    for number, command, expected in commands(block):
        if command in RUN_ELSEWHERE:
            continue
        done = subprocess.run(
            ["bash", "-c", command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        loosely = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        alike = doctest.OutputChecker().check_output(expected, done.stdout, loosely)
        if done.returncode != 0 or (expected and not alike):
            raise ExampleError(
                f"line {number}: {command}\nexit code {done.returncode}, output:\n{done.stdout}"
            )


def check_python(block: Block, name: str) -> None:
    """
    Compile *block*, and look up what it imports from harken.
    """
    compile(block.text, name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] == "harken":
            # Read, not imported: a framework may not be installed.
            found = importlib.util.find_spec(str(node.module))
            source = Path(str(found and found.origin)).read_text(encoding="utf-8")
            for alias in node.names:
                if not re.search(rf"\b{alias.name}\b", source):
                    raise ExampleError(f"line {block.line}: {node.module} has no {alias.name}")


def check_bash(block: Block) -> None:
    """
    Have bash read *block*, and harken tell the help of what it is asked there.
    """
    subprocess.run(["bash", "-n"], input=block.text, text=True, check=True)
    for line in block.text.splitlines():
        for words in split_at_operators(shlex.split(line, comments=True)):
            if words[:1] == ["harken"]:
                asked = [sys.executable, "-m", *words, "--help"]
                done = subprocess.run(asked, capture_output=True, text=True, check=False)
                if done.returncode != 0:
                    raise ExampleError(f"line {block.line}: {line}\n{done.stderr}")


def split_at_operators(words: list[str]) -> Iterator[list[str]]:
    """
    Yield the single commands of a line, without the variables that they are given.
    """
    command: list[str] = []
    for word in [*words, "|"]:
        if word in {"|", "&&", "||", ";"}:
            yield command
            command = []
        elif command or not re.match(r"\w+=", word):
            command.append(word)


def make_commands(project: dict[str, Any]) -> None:
    """
    Make what `[project.scripts]` declares a command, as an installation would.
    """
    for name, target in project.get("project", {}).get("scripts", {}).items():
        module, _, function = target.partition(":")
        script = Path("bin", name)
        script.parent.mkdir(exist_ok=True)
        script.write_text(
            f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {os.getcwd()!r})\n"
            f"from {module} import {function}\nsys.exit({function}())\n",
            encoding="utf-8",
        )
        script.chmod(0o755)


def run_page(path: Path) -> None:
    """
    Run the blocks of the page or the module at *path* in this process, in the current folder.
    """
    program = types.ModuleType("__main__")
    # Annotations and pickles are looked up in the module that a class says it is from.
    sys.modules["__main__"] = program
    for block in blocks_at(path):
        match block.kind.split(" "):
            case ["python", "compiled"]:
                check_python(block, path.name)
            case ["python", file]:
                Path(file).write_text(block.text, encoding="utf-8")
            case ["python"]:
                # The empty lines give each line the number that it has on the page.
                source = "\n" * (block.line - 1) + block.text
                exec(compile(source, path.name, "exec", dont_inherit=True), vars(program))
            case ["console"]:
                sys.stdout.flush()
                run_console(block)
            case ["json"]:
                json.loads(block.text)
            case ["toml"]:
                make_commands(tomllib.loads(block.text))
            case ["yaml"]:
                yaml.safe_load(block.text)
            case ["bash"]:
                check_bash(block)
            case ["text"]:
                if code := CODE.search(block.text):
                    raise ExampleError(f"line {block.line}: {code[0]!r} is code, and is not run")
            case _:
                raise ExampleError(f"line {block.line - 1}: nobody knows how to run {block.kind!r}")


def run_apart(path: Path, folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """
    Run what is at *path* in a fresh interpreter, in *folder*, with *folder* as home.
    """
    scripts = str(Path(sys.executable).parent)
    return subprocess.run(
        [sys.executable, __file__, str(path), *args],
        cwd=folder,
        env={
            **os.environ,
            "COLUMNS": "100",
            "HOME": str(folder),
            "NO_COLOR": "1",
            "PATH": os.pathsep.join(
                [str(folder / "bin"), scripts, os.environ.get("PATH", os.defpath)]
            ),
            "TERM": "dumb",
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=150,
        check=False,
    )


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_block_runs(path: Path, tmp_path: Path) -> None:
    """
    A reader who copies the blocks of a page in order gets what the page says.
    """
    lay_out(path, tmp_path)
    done = run_apart(path, tmp_path)

    assert 0 == done.returncode, done.stdout


def lay_out(page: Path, folder: Path) -> None:
    """
    Put into *folder* what the reader of *page* is told to have.
    """
    if page == EXAMPLE:
        shutil.copytree(page.parent, folder, dirs_exist_ok=True)
    if page.name == "CONTRIBUTING.md":
        # A clone, in whose environment is what is in this one.
        for name in ("tests", "pyproject.toml"):
            (folder / name).symlink_to(ROOT / name)
        (folder / ".venv").symlink_to(sys.prefix)


@pytest.fixture(scope="session")
def audit_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """
    The audit log of a demo.
    """
    folder = tmp_path_factory.mktemp("demo")
    harken = (sys.executable, "-m", "harken", "demo", "--out", str(folder))
    subprocess.run(harken, check=True, stdout=subprocess.DEVNULL)
    return folder / "audit.jsonl"


@pytest.mark.parametrize(
    "path",
    [path for path in MODULES if blocks_at(path)],
    ids=lambda path: f"{path.parent.name}.{path.stem}",
)
def test_every_block_of_a_docstring_runs(path: Path, tmp_path: Path, audit_log: Path) -> None:
    """
    A reader who copies the block of a docstring gets what it says.
    """
    shutil.copy(audit_log, tmp_path)
    done = run_apart(path, tmp_path, audit_log.name)

    assert 0 == done.returncode, done.stdout


def test_docstrings_have_code() -> None:
    """
    Blocks are found where there are some: the program that verifies an audit log is one.
    """
    found = blocks_at(ROOT / "src" / "harken" / "record.py")

    assert ["python"] == [block.kind for block in found]
    assert found[0].text.startswith("\nimport hashlib, sys\n")


@pytest.mark.parametrize("path", [*PAGES, *MODULES], ids=lambda path: str(path.relative_to(ROOT)))
def test_links_to_elsewhere_are_well_formed(path: Path) -> None:
    """
    Whether there is somebody at the other end, only a network could tell.
    """
    wrong = list(ill_formed_links(path.read_text(encoding="utf-8")))

    assert [] == wrong


@pytest.mark.parametrize(
    "text",
    [
        "[a](https:/one-slash.example)",
        "[a](http:no-slash.example)",
        "[a](https://)",
        "[a](https://two words.example)",
        "<htps://misspelt.example>",
        "[a](//no-scheme.example)",
    ],
)
def test_an_ill_formed_link_is_found(text: str) -> None:
    """
    A misspelt scheme, and a host that is none, are reported; a right link beside them is not.
    """
    assert 1 == len(list(ill_formed_links(f"[b](https://right.example/x#y) {text}\n")))


def test_the_readme_has_code() -> None:
    """
    The README shows a program and the commands that a new user runs.
    """
    kinds = {block.kind for block in blocks((ROOT / "README.md").read_text(encoding="utf-8"))}

    assert {"console", "python"} <= kinds


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ("```python\nprint(undefined)\n```\n", 'page.md", line 2'),
        ("```python\nx = 1\n```\n\n```python\nassert x == 2\n```\n", 'page.md", line 6'),
        ("```console\n$ false\n```\n", "line 2: false"),
        ("```console\n$ echo one\ntwo\n```\n", "line 2: echo one"),
        ("```console\necho one\n```\n", "begins with a prompt"),
        ("```json\n{,}\n```\n", "JSONDecodeError"),
        ("```toml\n= 1\n```\n", "TOMLDecodeError"),
        ("```\nx = 1\n```\n", "nobody knows how to run ''"),
        ("```pyhton\nx = 1\n```\n", "nobody knows how to run 'pyhton'"),
        ("```python\nx = 1\n", "line 1: the block has no end"),
        ("```python compiled\nasync for x in y\n```\n", "SyntaxError"),
        ("```python compiled\nfrom harken import Buz\n```\n", "line 2: harken has no Buz"),
        ("```yaml\n- a: [\n```\n", "ParserError"),
        ("```bash\nif true\n```\n", "bash"),
        ("```bash\nx=1 cat a | harken tail --bogus\n```\n", "--bogus"),
        ("```text\n$ harken tail\n```\n", "line 2: '$ harken tail' is code"),
    ],
)
def test_a_wrong_block_is_found(page: str, said: str, tmp_path: Path) -> None:
    """
    A block that fails, that shows something else, or that nobody can run, is reported.
    """
    path = tmp_path / "page.md"
    path.write_text(page, encoding="utf-8")

    done = run_apart(path, tmp_path)

    assert (True, True) == (done.returncode != 0, said in done.stdout), done.stdout


@pytest.mark.parametrize(
    ("docstring", "said"),
    [
        (".. code-block:: python\n\n    undefined\n", 'module.py", line 6'),
        (
            "Args:\n    x:\n        .. code-block:: python\n\n            1 / 0\n",
            'module.py", line 8',
        ),
        ("As in::\n\n    x = 1\n", "nobody knows how to run ''"),
        ("As in\n\n>>> x = 1\n", "nobody knows how to run 'doctest'"),
        (".. code-block:: json\n\n    {,}\n", "JSONDecodeError"),
    ],
)
def test_a_wrong_block_of_a_docstring_is_found(docstring: str, said: str, tmp_path: Path) -> None:
    """
    A block of a docstring that fails, or that nobody can run, is reported with its line.
    """
    path = tmp_path / "module.py"
    path.write_text(f'import re\n\n"""\n{docstring}"""\n', encoding="utf-8")

    done = run_apart(path, tmp_path)

    assert (True, True) == (done.returncode != 0, said in done.stdout), done.stdout


def test_a_right_page_passes(tmp_path: Path) -> None:
    """
    The blocks of a page share their names and their folder; `...` stands for anything.
    """
    path = tmp_path / "page.md"
    path.write_text(
        "1. Write\n\n"
        "   ```python\n   from pathlib import Path\n   path = Path('a.txt')\n   ```\n\n"
        "```python two.py\ntwo = 2\n```\n\n"
        "```python\nfrom two import two\nassert two == 2\npath.write_text('one\\ntwo\\nthree\\n')\n```\n\n"
        "```console\n$ cat a.txt\none\n...\nthree\n$ pip install .\n```\n\n"
        "```console\n$ echo \\\n> done\ndone\n```\n\n"
        "```python compiled\nfrom harken import Bus\nasync for x in y:\n    ...\n```\n\n"
        "```bash\nA=b harken tail -f | cat\n```\n\n"
        "```toml\n[project.scripts]\nsay = 'one:say'\n```\n\n"
        "```python one.py\ndef say():\n    print('said')\n```\n\n"
        "```console\n$ say\nsaid\n```\n\n"
        "```text\nnone\n```\n",
        encoding="utf-8",
    )

    done = run_apart(path, tmp_path)

    assert (0, "") == (done.returncode, done.stdout)


if __name__ == "__main__":
    del sys.argv[0]
    # A page's own files are imported from the folder, as in any program that is run there.
    sys.path[0] = ""
    run_page(Path(sys.argv[0]))
