"""
``harken export html``.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from tests.report.agents import RUN, write_agent_log
from tests.trail.logs import write_log
from tests.trail.stories import write_story

from harken.sinks.audit import create_key

pytestmark = pytest.mark.once

Run = Callable[..., CompletedProcess[str]]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "audit.jsonl"
    write_agent_log(path, 2)
    return path


def rows_of(page: str) -> int:
    return len(re.findall(r"<tr data-row", page.partition("<noscript>")[2]))


def claim_of(page: str, name: str) -> str:
    (word,) = re.findall(rf'data-claim="{name}"><b>\w+</b><span class="word">([\w ]+)', page)
    return str(word)


def test_run(harken: Run, tmp_path: Path) -> None:
    """
    The page of a run has the run with those that it started itself, and only its owner may read it.
    """
    story = write_story(tmp_path / "audit.jsonl")
    story.write()

    done = harken("export", "html", "audit.jsonl", "--run", "r1", "-O", "run.html")

    page = tmp_path / "run.html"
    assert ("", "") == (done.stdout, done.stderr)
    assert 0o600 == stat.S_IMODE(page.stat().st_mode)
    text = page.read_text(encoding="utf-8")
    assert "<title>Mend it</title>" in text
    assert "r2" in text


def test_filters(harken: Run, log: Path) -> None:
    """
    Without a run it is whatever is asked for, on standard output.
    """
    done = harken("export", "html", "-F", str(log), "--type", "tool.*", "--title", "Tools")

    assert "<title>Tools</title>" in done.stdout
    assert 5 == rows_of(done.stdout)


def test_no_such_run(harken: Run, log: Path) -> None:
    """
    A run that is not there is named, and no file is left behind.
    """
    done = harken("export", "html", str(log), "--run", "nobody", "-O", "x.html", returncode=5)

    assert "nobody" in done.stderr
    assert [log] == list(log.parent.iterdir())


def test_pattern_of_runs(harken: Run, log: Path) -> None:
    """
    A pattern stands for many runs, or for none.
    """
    assert 14 == rows_of(harken("export", "html", str(log), "--run", "r-*").stdout)
    assert 0 == rows_of(harken("export", "html", str(log), "--run", "x-*").stdout)


def test_limit(harken: Run, log: Path) -> None:
    """
    The page of a long log is as long as it is wanted.
    """
    done = harken("export", "html", str(log), "--run", RUN, "--limit", "1")

    assert "2 of 22 records" in done.stdout


def test_key(harken: Run, tmp_path: Path) -> None:
    """
    With the key that sealed the log, the page says that the seals are genuine.
    """
    first = harken("keygen", "agent.key").stdout
    (tmp_path / "first.key").write_text(first)
    (tmp_path / "first.key").chmod(0o600)
    write_log(tmp_path / "audit.jsonl", key=tmp_path / "agent.key")

    done = harken(*("export", "html", "audit.jsonl", "--key", "first.key", "--state", "agent.key"))

    assert re.search('class="good" data-claim="seals"', done.stdout)
    assert re.search("A key or an anchor vouches for everything up to line [1-9]", done.stdout)


def test_seals_that_were_cut_off(harken: Run, tmp_path: Path) -> None:
    """
    That the end of a log was cut off shows where the agent's own key file is given.
    """
    (tmp_path / "first.key").write_text(harken("keygen", "agent.key").stdout)
    (tmp_path / "first.key").chmod(0o600)
    log = tmp_path / "audit.jsonl"
    write_log(log, key=tmp_path / "agent.key")
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:4]))

    done = harken(*("export", "html", "audit.jsonl", "--key", "first.key", "--state", "agent.key"))

    assert "tampered" in re.findall(r'class="word">(\w+)<', done.stdout)


def test_head(harken: Run, log: Path) -> None:
    """
    With a head that was kept elsewhere, the page says how far it vouches.
    """
    (log.parent / "heads").write_text(harken("head", str(log)).stdout)

    done = harken("export", "html", str(log), "--anchor", "heads")

    assert re.search('class="good" data-claim="tail"', done.stdout)


def test_what_could_not_be_read(harken: Run, log: Path) -> None:
    """
    Lines that are no records are told, and the page is made all the same.
    """
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join([*lines[:3], b"not a record\n", *lines[3:]]))

    done = harken("export", "html", str(log), "-O", "page.html", returncode=3)

    assert "left out" in done.stderr
    assert "could not be read" in (log.parent / "page.html").read_text(encoding="utf-8")


def test_foreign_file(harken: Run, tmp_path: Path) -> None:
    """
    Nothing vouches for a file that is no audit log.
    """
    (tmp_path / "notes.txt").write_text("one\ntwo\n")

    done = harken("export", "html", "notes.txt", returncode=3)

    assert "was not verified" in done.stderr
    assert "not checked" in done.stdout


@pytest.mark.parametrize("option", [("--title", "x"), ("--limit", "1"), ("--key", "k")])
def test_options_of_html_alone(harken: Run, log: Path, option: tuple[str, str]) -> None:
    """
    A form that can say nothing of a key, a title or a limit refuses it.
    """
    done = harken("export", "csv", str(log), *option, returncode=2)

    assert "html does" in done.stderr


@pytest.mark.parametrize(
    ("form", "option", "said"),
    [
        ("jsonl", ("--fields", "seq"), "--fields are the columns of csv"),
        ("html", ("--fields", "seq"), "--fields are the columns of csv"),
        ("html", ("--state", "s"), "seals, which need --key"),
    ],
)
def test_an_option_in_vain(
    harken: Run, log: Path, form: str, option: tuple[str, str], said: str
) -> None:
    """
    Whoever wants to hand out less, or to compare more, is not answered with all, or with less.
    """
    assert said in harken("export", form, str(log), *option, returncode=2).stderr


def test_terminal(on_terminal: Any, log: Path) -> None:
    """
    A page is not poured onto a terminal.
    """
    terminal = on_terminal("export", "html", str(log))

    assert 2 == terminal.wait()
    assert "-O" in terminal.shown
    assert "<html" not in terminal.shown


def test_key_file_of_the_settings(harken: Run, tmp_path: Path) -> None:
    """
    With a key, the agent's own key file is the one of the settings, as for `harken verify`; a
    setting that makes no sense keeps nobody from reading.
    """
    key = tmp_path / "agent.key"
    (tmp_path / "first.key").write_text(f"{create_key(key)}\n")
    path = tmp_path / "audit.jsonl"
    write_log(path, key=key)
    lines = path.read_bytes().splitlines(keepends=True)
    asked = ("export", "html", "-F", "audit.jsonl", "--key", "first.key")
    env = {"HARKEN_AUDIT_KEY_PATH": "agent.key"}

    whole = harken(*asked, env=env)
    path.write_bytes(b"".join(lines[:2]))
    cut = harken(*asked, env=env)
    unknown = harken(*asked, env={**env, "HARKEN_LOG_FORMAT": "nonsense"})

    assert ["ok", "incomplete"] == [claim_of(done.stdout, "tail") for done in (whole, cut)]
    assert "" == whole.stderr
    assert "would not show" in unknown.stderr
