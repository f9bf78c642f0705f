"""
Every code block of README.md and docs, run.

The info string of a block says what becomes of it. `python`: run, all blocks of a file as
one program. `console`: each line after `$` is run by bash in the same folder, must exit
with 0, and prints what stands below it, where `...` stands for anything and white space does
not count. `json` and `toml`: parsed. `text`: shown only.
"""

from __future__ import annotations

import doctest
import json
import os
import subprocess
import sys
import tomllib
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
# Each of these runs as a nox session, or is what runs the sessions.
RUN_ELSEWHERE = {
    "nox",
    "pip install .",
    "pip install harken",
    "pip install nox",
    "pip install nox && nox",
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


def run_page(path: Path) -> None:
    """
    Run the blocks of the page at *path* in this process and in the current folder.
    """
    program = types.ModuleType("__main__")
    # Annotations and pickles are looked up in the module that a class says it is from.
    sys.modules["__main__"] = program
    for block in blocks(path.read_text(encoding="utf-8")):
        match block.kind:
            case "python":
                # The empty lines give each line the number that it has on the page.
                source = "\n" * (block.line - 1) + block.text
                exec(compile(source, path.name, "exec", dont_inherit=True), vars(program))
            case "console":
                sys.stdout.flush()
                run_console(block)
            case "json":
                json.loads(block.text)
            case "toml":
                tomllib.loads(block.text)
            case "text":
                pass
            case _:
                raise ExampleError(f"line {block.line - 1}: nobody knows how to run {block.kind!r}")


def run_apart(path: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """
    Run the page at *path* in a fresh interpreter, in *folder*, with *folder* as home.
    """
    scripts = str(Path(sys.executable).parent)
    return subprocess.run(
        [sys.executable, __file__, str(path)],
        cwd=folder,
        env={
            **os.environ,
            "COLUMNS": "100",
            "HOME": str(folder),
            "NO_COLOR": "1",
            "PATH": os.pathsep.join([scripts, os.environ.get("PATH", os.defpath)]),
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
    done = run_apart(path, tmp_path)

    assert 0 == done.returncode, done.stdout


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


def test_a_right_page_passes(tmp_path: Path) -> None:
    """
    The blocks of a page share their names and their folder; `...` stands for anything.
    """
    path = tmp_path / "page.md"
    path.write_text(
        "1. Write\n\n"
        "   ```python\n   from pathlib import Path\n   path = Path('a.txt')\n   ```\n\n"
        "```python\npath.write_text('one\\ntwo\\nthree\\n')\n```\n\n"
        "```console\n$ cat a.txt\none\n...\nthree\n$ pip install .\n```\n\n"
        "```console\n$ echo \\\n> done\ndone\n```\n\n"
        "```text\n$ false\n```\n",
        encoding="utf-8",
    )

    done = run_apart(path, tmp_path)

    assert (0, "") == (done.returncode, done.stdout)


if __name__ == "__main__":
    run_page(Path(sys.argv[1]))
