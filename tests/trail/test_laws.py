"""
Laws of verifying: every change is found where it is, and nothing is found where there is none.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings, strategies as st
from tests.trail.logs import archives, hash_of, lines_of, put, struck, write_log

from harken.sinks.audit import create_key
from harken.trail import Key, Report, read_key, read_state, verify

# The laws hold or break on every Python alike.
pytestmark = pytest.mark.once

DOCS = Path(__file__).parents[2] / "docs" / "audit-log.md"


class Sample:
    """
    A sealed log of several files and writers, which each example changes and puts back.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "audit.jsonl"
        first = folder / "first.key"
        first.write_text(create_key(folder / "agent.key"))
        self.key = read_key(first)
        self.agent = folder / "agent.key"
        other = write_log(self.path, 3, key=folder / "agent.key", close=False)
        for _ in range(3):
            write_log(self.path, 6, key=folder / "agent.key", max_bytes=6000, text="né")
            other.write(struck(1))
        other.close()
        self.files = [*archives(self.path), self.path]
        self.contents = [file.read_bytes() for file in self.files]

    def verified(self, number: int, content: bytes) -> Report:
        file = self.files[number]
        file.write_bytes(content)
        try:
            return verify(self.path, keys=[self.key], states=[read_state(self.agent)])
        finally:
            file.write_bytes(self.contents[number])


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    return Sample(tmp_path_factory.mktemp("sample"))


def is_found(report: Report, file: Path, line: int) -> bool:
    return report.exit_code != 0 and any(
        (str(file), line) == (finding.file, finding.line) and finding.weight != "note"
        for finding in report.findings
    )


def test_the_sample_is_whole(sample: Sample) -> None:
    """
    Before anything is changed, the log is verified.
    """
    report = verify(sample.path, keys=[sample.key], states=[read_state(sample.agent)])

    assert (0, (), True) == (report.exit_code, report.findings, len(report.files) > 2)


@given(st.data())
@settings(max_examples=400)
def test_any_byte_that_is_changed(sample: Sample, data: st.DataObject) -> None:
    """
    Whatever byte of a sealed log is changed into whatever other, it is reported at its line.
    """
    number = data.draw(st.integers(0, len(sample.files) - 1))
    content = bytearray(sample.contents[number])
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] = data.draw(st.integers(0, 255).filter(lambda byte: byte != content[at]))

    report = sample.verified(number, bytes(content))

    line = sample.contents[number].count(b"\n", 0, at) + 1
    assert is_found(report, sample.files[number], line), report.findings


@given(st.data())
@settings(max_examples=200)
def test_any_byte_that_is_added_or_removed(sample: Sample, data: st.DataObject) -> None:
    """
    Whatever byte is added inside a line, or taken out of it, it is reported at that line.
    """
    number = data.draw(st.integers(0, len(sample.files) - 1))
    content = bytearray(sample.contents[number])
    at = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        del content[at]
    else:
        content.insert(at, data.draw(st.integers(0, 255)))

    report = sample.verified(number, bytes(content))

    line = sample.contents[number].count(b"\n", 0, at) + 1
    assert is_found(report, sample.files[number], line), report.findings


@given(st.data())
@settings(max_examples=100)
def test_any_line_that_is_removed(sample: Sample, data: st.DataObject) -> None:
    """
    Whichever lines are taken out, it shows; what is older than everything else may have been
    taken away by its owner.
    """
    number = data.draw(st.integers(0, len(sample.files) - 1))
    lines = sample.contents[number].splitlines(keepends=True)
    first = data.draw(st.integers(0, len(lines) - 1))
    last = data.draw(st.integers(first, len(lines) - 1))

    report = sample.verified(number, b"".join(lines[:first] + lines[last + 1 :]))

    at_an_end = (number, first) == (0, 0) or (
        number == len(sample.files) - 1 and last == len(lines) - 1
    )
    assert report.exit_code in ({1, 3} if at_an_end else {1}), report


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(
            ["write", "write", "write", "end", "kill", "tear", "foreign", "rename", "copytruncate"]
        ),
        st.integers(0, 2),
    ),
    max_size=25,
)


@given(OPERATIONS, st.booleans())
@settings(max_examples=60)
def test_no_false_alarm(operations: list[tuple[str, int]], with_key: bool) -> None:
    """
    Whatever happens to several writers of a log and to its files, a log that nobody tampered with
    is never said to be; and one that everybody ended is whole.
    """
    with TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "audit.jsonl"
        agent = folder / "agent.key" if with_key else None
        keys: list[Key] = []
        if agent is not None:
            (folder / "first.key").write_text(create_key(agent))
            keys = [read_key(folder / "first.key")]
        writers = [write_log(path, 1, key=agent, max_bytes=5000, close=False) for _ in range(3)]
        renamed = 0
        for operation, number in operations:
            match operation:
                case "write":
                    writers[number].write(struck(2))
                case "end":
                    writers[number].close()
                    writers[number] = write_log(path, 1, key=agent, max_bytes=5000, close=False)
                case "kill":
                    writers[number] = write_log(path, 1, key=agent, max_bytes=5000, close=False)
                case "tear":
                    with path.open("ab") as file:
                        file.write(b'{"timestamp":"2026-01-01T00:00:00.000000Z","seq":1')
                    writers[number].write(struck(1))
                case "foreign":
                    with path.open("ab") as file:
                        file.write(b"logrotate was here\n")
                    writers[number].write(struck(1))
                case "rename":
                    renamed += 1
                    path.rename(f"{path}.{renamed}")
                    writers[number].write(struck(1))
                case _:
                    renamed += 1
                    shutil.copyfile(path, f"{path}.{renamed}")
                    with path.open("rb+") as file:
                        file.truncate(0)
                    # A writer trusts for a moment that nobody makes the file as long as it was.
                    time.sleep(0.06)
                    writers[number].write(struck(1))
        for writer in writers:
            writer.close()
        states = [read_state(agent)] if agent is not None else []

        report = verify(path, keys=keys, states=states)

        assert report.verdict in {"ok", "incomplete"}, report.findings
        assert [] == [
            finding for finding in report.findings if finding.weight in {"tampered", "undecided"}
        ]
        kills = {"kill", "tear"} & {operation for operation, _ in operations}
        assert not with_key or kills or 0 == report.exit_code, report.findings


@pytest.fixture
def rotated(tmp_path: Path) -> Iterator[list[Path]]:
    """
    The files of a log, oldest first.
    """
    path = tmp_path / "audit.jsonl"
    write_log(path, 60, max_bytes=9000)
    files = [*archives(path), path]
    assert 3 <= len(files)
    return files


def run(program: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(program, cwd=folder, capture_output=True, text=True, check=False)


def verified_without_harken(files: list[Path], folder: Path) -> subprocess.CompletedProcess[str]:
    """
    Run the program that the documentation shows, in a Python that knows no harken.
    """
    (program,) = re.findall(r"```python\n(import hashlib\n.*?)```", DOCS.read_text(), re.DOTALL)
    folder.mkdir(exist_ok=True)
    put(folder / "audit.jsonl", [file.read_bytes() for file in files])
    return run([sys.executable, "-I", "-S", "-c", program, *map(str, files)], folder)


class TestWithoutHarken:
    def test_python(self, rotated: list[Path], tmp_path: Path) -> None:
        """
        The program in the documentation verifies a log of several files, and finds a change.
        """
        ran = verified_without_harken(rotated, tmp_path / "copy")

        lines = [line for file in rotated for line in lines_of(file)]
        assert 0 == ran.returncode, ran.stderr
        assert hash_of(lines[-1]) in ran.stdout
        lines = lines_of(rotated[1])
        for changed in (
            [*lines[:3], lines[3].replace(b'"number":', b'"number":1'), *lines[4:]],
            [*lines[:3], *lines[4:]],
        ):
            put(rotated[1], changed)
            ran = verified_without_harken(rotated, tmp_path / "copy")
            assert 0 != ran.returncode

    def test_shell(self, rotated: list[Path], tmp_path: Path) -> None:
        """
        The command in the documentation computes, for each line, the hash that stands in it.
        """
        (command,) = re.findall(r"\$ (line=.*sha256sum.*)", DOCS.read_text())
        lines = [line for file in rotated for line in lines_of(file)]
        numbers = (1, len(lines) // 2, len(lines))
        put(tmp_path / "audit.jsonl", lines)

        for number in numbers:
            script = command.replace("2p", f"{number}p")
            ran = run(["bash", "-c", script], tmp_path)
            assert [hash_of(lines[number - 1])] * 2 == ran.stdout.split(), shlex.quote(script)
