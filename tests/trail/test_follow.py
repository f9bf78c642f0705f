"""
Following a log that is appended to, rotated, cut and removed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.trail.corpora import BEGAN_NS, SECOND, Chain
from tests.trail.logs import write_log

from harken.trail import Filter, Problem
from harken.trail.follow import follow


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


def steps(
    path: Path, *acts: Callable[[], object], where: Filter | None = None, last: int | None = 0
) -> tuple[list[list[int]], list[str]]:
    """
    Follow *path*; do the next act whenever nothing new came in three polls.

    Returns the numbers of the records that came after each act, those before the first one at the
    begin, and the problems.
    """
    seen: list[list[int]] = [[]]
    problems: list[Problem] = []
    rest = list(acts)
    polls = 0

    def wait() -> None:
        nonlocal polls
        polls += 1
        if polls < 3:
            return
        polls = 0
        if not rest:
            raise InterruptedError
        seen.append([])
        rest.pop(0)()

    with pytest.raises(InterruptedError):
        for entries in follow(
            path, where or Filter(), last=last, report=problems.append, wait=wait
        ):
            seen[-1] += [entry.record.seq for entry in entries]
    return seen, [problem.message for problem in problems]


def appending(path: Path, data: bytes) -> Callable[[], None]:
    def append() -> None:
        with path.open("ab") as file:
            file.write(data)

    return append


def lines(count: int) -> list[bytes]:
    chain = Chain()
    return [chain.line(BEGAN_NS + n * SECOND) for n in range(count)]


def test_what_is_appended(path: Path) -> None:
    """
    The last ones come first, and then each line as it is appended.
    """
    some = lines(6)
    path.write_bytes(b"".join(some[:3]))

    seen = steps(path, appending(path, some[3]), appending(path, some[4] + some[5]), last=2)

    assert ([[2, 3], [4], [5, 6]], []) == seen


def test_all_of_it(path: Path) -> None:
    """
    Whoever wants all gets all.
    """
    path.write_bytes(b"".join(lines(2500)))

    ((seen,), problems) = steps(path, last=None)

    assert (list(range(1, 2501)), []) == (seen, problems)


def test_a_line_in_two_halves(path: Path) -> None:
    """
    A line is there when it has its end, also when half of it was there from the begin.
    """
    some = lines(3)
    path.write_bytes(some[0] + some[1][:100])

    seen, problems = steps(
        path,
        appending(path, some[1][100:200]),
        appending(path, some[1][200:] + some[2][:5]),
        appending(path, some[2][5:]),
    )

    assert [[], [], [2], [3]] == seen
    assert all("not finished" in message for message in problems)


def test_within_two_polls(path: Path) -> None:
    """
    What is appended is seen when the log is looked at the next time, or once more after a rotation.
    """
    some = lines(3)
    path.write_bytes(some[0])
    acts = [
        lambda: appending(path, some[1])(),
        lambda: (path.rename(path.with_name("audit.jsonl.1")), path.write_bytes(some[2])),
    ]
    waited = [0]

    def wait() -> None:
        waited[-1] += 1
        if waited[-1] == 1 and acts:
            acts.pop(0)()
        elif waited[-1] > 5:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        for _ in follow(path, wait=wait):
            waited.append(0)

    assert 3 == len(waited)
    assert all(polls <= 3 for polls in waited[:-1])


def test_filter(path: Path) -> None:
    """
    Only what is wanted comes.
    """
    chain = Chain()
    path.write_bytes(chain.line(BEGAN_NS))
    more = chain.line(BEGAN_NS, event_type="run.started") + chain.line(BEGAN_NS)

    seen = steps(path, appending(path, more), where=Filter(types=("run.*",)), last=5)

    assert ([[], [2]], []) == seen


def test_rotation_by_harken(path: Path) -> None:
    """
    Rotation is followed, also when it happens several times between two looks.
    """
    write_log(path, 3)

    seen, problems = steps(
        path, lambda: write_log(path, 40, max_bytes=4096), lambda: write_log(path, 2)
    )

    numbers = [seq for some in seen for seq in some]
    assert list(range(numbers[0], numbers[0] + len(numbers))) == numbers
    assert 2 < len(list(path.parent.glob("audit.jsonl.2*")))
    assert [] == problems


def test_late_line_in_the_renamed_file(path: Path) -> None:
    """
    Who began to write before a file was renamed is still heard.
    """
    some = lines(4)
    path.write_bytes(some[0])
    old = path.with_name("audit.jsonl.1")

    def rename() -> None:
        with path.open("ab") as file:
            path.rename(old)
            path.write_bytes(some[2])
            file.write(some[1])

    seen, problems = steps(path, rename, appending(path, some[3]))

    assert ([[], [2, 3], [4]], []) == (seen, problems)


def test_cut(path: Path) -> None:
    """
    A file that was cut is named, and read from its begin.
    """
    some = lines(5)
    path.write_bytes(b"".join(some[:4]))

    def cut() -> None:
        os.truncate(path, 0)
        path.write_bytes(some[4])

    seen, problems = steps(path, cut)

    assert [[], [5]] == seen
    assert ["cut" in problem for problem in problems] == [True]


def test_removed_and_made_again(path: Path) -> None:
    """
    A file that is gone is waited for, and so is one that never was.
    """
    some = lines(2)

    seen, problems = steps(
        path, appending(path, some[0]), path.unlink, appending(path, some[1]), last=5
    )

    assert [[], [1], [], [2]] == seen
    assert ["waiting" in problem for problem in problems] == [True, True]


def test_long_line(path: Path) -> None:
    """
    A line of 10 MB is named once and passed over.
    """
    some = lines(3)
    path.write_bytes(some[0])
    long = b"x" * 10_000_000 + b"\n"

    seen, problems = steps(path, appending(path, some[1] + long), appending(path, some[2]))

    assert [[], [2], [3]] == seen
    assert 1 == len(problems)


def test_junk(path: Path) -> None:
    """
    What is no record is named, and following goes on.
    """
    some = lines(2)
    path.write_bytes(some[0])

    seen, problems = steps(path, appending(path, b"\xff\n\n" + some[1]))

    assert [[], [2]] == seen
    assert ["the line is no record; left out"] == problems
