"""
Finding the files of a log, and its head.
"""

from __future__ import annotations

import fcntl
import gzip
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.trail.logs import archives, hash_of, lines_of, put, struck, write_log

import harken.trail.files
from harken.trail import Head, Segment, TrailError, head_of, open_log, verify


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))


class TestBadPaths:
    @pytest.mark.parametrize(
        ("make", "said"),
        [
            (lambda path: None, "there is no audit log at"),
            (Path.mkdir, "is a folder"),
            (make_fifo, "is not a regular file"),
            (make_socket, "cannot be read"),
            (lambda path: path.symlink_to(path), "cannot be read"),
        ],
        ids=["nothing", "folder", "FIFO", "socket", "link to itself"],
    )
    def test_no_log(self, path: Path, make: Callable[[Path], None], said: str) -> None:
        """
        What is no log is named at once, and left alone.
        """
        make(path)

        with pytest.raises(TrailError, match=f"audit.jsonl.*{said}|{said}.*audit.jsonl"):
            verify(path)

    def test_no_folder(self, path: Path) -> None:
        """
        A folder that is missing is no surprise.
        """
        with pytest.raises(TrailError, match="there is no audit log at"):
            verify(path / "audit.jsonl" / "x")

    def test_unreadable(self, path: Path) -> None:
        """
        A file that the user may not read cannot be judged.
        """
        write_log(path)
        path.chmod(0)
        code = (
            "import os, sys\n"
            "from harken.trail import TrailError, verify\n"
            "if os.geteuid() == 0:\n"
            "    os.seteuid(65534)\n"
            "try:\n"
            "    verify(sys.argv[1])\n"
            "except TrailError as error:\n"
            "    print(error)\n"
        )
        path.parent.chmod(0o755)
        for folder in path.parents:
            if folder.stat().st_uid == os.getuid() and folder.name.startswith("pytest-"):
                folder.chmod(0o755)

        ran = subprocess.run(
            [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False
        )

        assert "cannot be read: Permission denied; run this as a user who may" in ran.stdout

    def test_renamed_again_and_again(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        A path that never holds still is given up.
        """
        write_log(path)
        real = os.listdir

        def rename(folder: str) -> list[str]:
            shutil.copyfile(path, path.with_name("aside"))
            path.with_name("aside").replace(path)
            return real(folder)

        monkeypatch.setattr(os, "listdir", rename)

        with pytest.raises(TrailError, match="again and again"):
            verify(path)

    def test_deleted_meanwhile(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        A file that is deleted while the others are looked for is one that is not there.
        """
        write_log(path)
        put(path.with_name("audit.jsonl.1"), lines_of(path))
        real = os.listdir

        def delete(folder: str) -> list[str]:
            names = real(folder)
            path.unlink(missing_ok=True)
            return names

        monkeypatch.setattr(os, "listdir", delete)

        assert ["audit.jsonl.1"] == [Path(one.file).name for one in verify(path).files]

    def test_archive_deleted_meanwhile(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        So is an archive that is deleted between two looks.
        """
        write_log(path)
        monkeypatch.setattr(os, "listdir", lambda folder: ["audit.jsonl", "audit.jsonl.1"])

        assert 1 == len(verify(path).files)


class TestFinding:
    def test_segments(self, path: Path) -> None:
        """
        The files are in order, and each knows where it begins.
        """
        write_log(path, 60, max_bytes=9000)

        with open_log(path) as log:
            segments = log.segments

        assert [*map(str, archives(path)), str(path)] == [segment.path for segment in segments]
        assert [True, *[False] * (len(segments) - 1)] == [one.begins_log for one in segments]
        assert [*[False] * (len(segments) - 1), True] == [one.live for one in segments]
        assert sum(file.stat().st_size for file in (*archives(path), path)) == log.size
        assert sorted(one.seq for one in segments) == [one.seq for one in segments]

    def test_size_of_files_does_not_matter(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        Finding the files reads the beginning of each, and no more.
        """
        write_log(path, 3000, max_bytes=800_000)
        read: list[int] = []
        real = harken.trail.files.read_at

        def counted(fd: int, start: int, size: int) -> bytes:
            data = real(fd, start, size)
            read.append(len(data))
            return data

        monkeypatch.setattr(harken.trail.files, "read_at", counted)
        monkeypatch.setattr(harken.trail.files, "_BUFFER", 4096)

        with open_log(path) as log:
            assert 3 <= len(log.segments)

        assert sum(read) <= len(log.segments) * 8192

    def test_link(self, path: Path, tmp_path: Path) -> None:
        """
        A link to a log is the log itself, with the files that are beside that.
        """
        write_log(path, 60, max_bytes=9000)
        link = tmp_path / "elsewhere" / "log"
        link.parent.mkdir()
        link.symlink_to(path)

        assert verify(path).files == verify(link).files

    def test_relative_path(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        Files are shown as the path was given.
        """
        write_log(path, 60, max_bytes=9000)
        monkeypatch.chdir(path.parent)

        assert [*[one.name for one in archives(path)], "audit.jsonl"] == [
            file.file for file in verify("audit.jsonl").files
        ]

    def test_packed_file_by_itself(self, path: Path) -> None:
        """
        One compressed archive can be looked at alone.
        """
        write_log(path, 60, max_bytes=9000)
        first = archives(path)[0]
        alone = path.with_name("evidence.gz")
        alone.write_bytes(gzip.compress(first.read_bytes()))

        report = verify(alone, chain_only=True)

        assert (0, len(lines_of(first))) == (report.exit_code, report.lines)

    def test_without_zstandard(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        Without the package zstandard the message says what to install.
        """
        write_log(path)
        path.with_name("audit.jsonl.1.zst").write_bytes(b"x")
        monkeypatch.setitem(sys.modules, "zstandard", None)

        with pytest.raises(TrailError, match=r"install harken\[zstd\]"):
            verify(path)

    def test_file_system_without_locks(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        Where there are no locks, the log is read all the same.
        """
        write_log(path)

        def refuse(fd: int, how: int) -> None:
            raise OSError(95, "Operation not supported")

        monkeypatch.setattr(fcntl, "flock", refuse)

        with open_log(path) as log:
            assert log.in_progress
        assert 13 == verify(path).lines

    def test_archive_with_another_name(self) -> None:
        """
        Only the names that harken gives say which line a file ends with.
        """

        def named(name: str) -> int | None:
            return Segment(
                name, 0, 0, None, begins_log=False, live=False, inode=(0, 0)
            ).last_seq_by_name

        assert [17, 17, 17, None, None] == [
            named(f"audit.jsonl{rest}")
            for rest in (
                ".20261121T091332Z-0000000017",
                ".20261121T091332Z-0000000017.2",
                ".20261121T091332Z-0000000017.zst",
                ".20261121T091332Z-0000000017.old",
                ".1",
            )
        ]


class TestHead:
    def test_last_line(self, path: Path) -> None:
        """
        The head is the last line of the newest file.
        """
        write_log(path, 60, max_bytes=9000)
        last = lines_of(path)[-1]

        head = head_of(path)

        assert Head(str(path), verify(path).seq, hash_of(last), head.timestamp) == head
        assert f'{{"timestamp":"{head.timestamp}"'.encode() == last[:42]

    def test_long_lines(self, path: Path) -> None:
        """
        It is found however long the line is, and whatever half a line stands behind it.
        """
        log = write_log(path, 3, text="x" * 60_000, close=False)
        last = lines_of(path)[-1]
        with path.open("ab") as file:
            file.write(b"x" * 100_000)

        assert hash_of(last) == head_of(path).hash
        log.close()

    def test_newline_missing(self, path: Path) -> None:
        """
        A line without its end is no line yet.
        """
        write_log(path)
        lines = lines_of(path)
        put(path, [*lines[:-1], lines[-1][:-1]])

        assert hash_of(lines[-2]) == head_of(path).hash

    def test_much_behind_it(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        It is also found when the rest of the file is something else.
        """
        monkeypatch.setattr(harken.trail.files, "_SEARCHED", 8192)
        write_log(path)
        last = lines_of(path)[-1]
        with path.open("ab") as file:
            file.write(b"garbage\n" * 10_000)

        assert hash_of(last) == head_of(path).hash

    def test_file_before(self, path: Path) -> None:
        """
        While the newest file has no record, it is in the one before, compressed or not.
        """
        write_log(path)
        last = lines_of(path)[-1]
        path.rename(f"{path}.1")
        path.write_bytes(b"\n")
        assert hash_of(last) == head_of(path).hash

        older = path.with_name("audit.jsonl.1")
        path.with_name("audit.jsonl.1.gz").write_bytes(gzip.compress(older.read_bytes()))
        older.unlink()
        path.unlink()
        assert hash_of(last) == head_of(path).hash

    def test_nothing_sealed(self, path: Path) -> None:
        """
        A file without a sealed record has no head.
        """
        path.write_bytes(b"hello\n")

        with pytest.raises(TrailError, match="holds no sealed record"):
            head_of(path)

    def test_while_it_is_written(self, path: Path) -> None:
        """
        The head of a log that is written is that of a line which is there.
        """
        log = write_log(path, 3, close=False)
        first = head_of(path)
        log.write(struck(2))

        assert (4, 6) == (first.seq, head_of(path).seq)
        log.close()
