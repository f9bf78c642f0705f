"""
`harken verify`: what an auditor sees, and what a script gets.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.trail.logs import archives, hash_of, lines_of, put, struck, write_log

import harken.cli.verify
from harken.sinks.audit import create_key
from harken.trail import TrailError

Call = Callable[..., Any]


@pytest.fixture(autouse=True)
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """
    Where the audit log of the test is, which is also that of the settings.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HARKEN_AUDIT_JSONL_PATH", "audit.jsonl")
    return Path("audit.jsonl")


@pytest.fixture
def first() -> Path:
    """
    The first key of a log that is sealed with ``agent.key``.
    """
    path = Path("first.key")
    path.write_text(f"{create_key('agent.key')}\n")
    return path


class TestExitCodes:
    def test_verified(self, call: Call, path: Path, first: Path) -> None:
        """
        0: the log is what was written, all of it, and the key vouches for it.
        """
        write_log(path, key=Path("agent.key"))
        head = hash_of(lines_of(path)[-1])

        called = call("verify", "--key", str(first), "--state", "agent.key")

        assert (0, "") == (called.code, called.err)
        assert (
            f"chain         ok          13 lines in 1 file, head 13 {head}\n"
            "seals         ok          1 checkpoint, 1 sealed; 1 seals verified\n"
            "completeness  ok          nothing is missing\n"
            "tail          ok          vouched for up to the line 11 of 13\n"
            "\n"
            "verified: nothing was changed, and nothing is missing\n"
        ) == called.out

    def test_tampered(self, call: Call, path: Path) -> None:
        """
        1: somebody changed the log; the place is shown as editors and terminals know it.
        """
        write_log(path)
        put(path, [line.replace(b'"number":4', b'"number":5') for line in lines_of(path)])

        called = call("verify")

        assert 1 == called.code
        assert ("audit.jsonl:5: altered: the line was altered after it was sealed\n") in called.out
        assert called.out.endswith("\ntampered: the log is not what was written\n")

    def test_consistent(self, call: Call, path: Path) -> None:
        """
        3: the chain holds, and nothing vouches for it; with `--chain-only` that is enough.
        """
        write_log(path)

        assert 3 == call("verify").code
        called = call("verify", "--chain-only")
        assert 0 == called.code
        assert called.out.endswith("\nverified: the chain holds; nothing else was asked for\n")

    def test_deleted_under_its_writer(self, call: Call, path: Path) -> None:
        """
        What is missing is said where it is judged, too.
        """
        log = write_log(path, 5, close=False)
        path.unlink()
        log.write(struck(1))
        log.close()

        called = call("verify")

        assert 3 == called.code
        assert (
            "completeness  incomplete  the lines 1 to 6 are in older files, which are not here\n"
        ) in called.out

    def test_chain_only_and_tampered(self, call: Call, path: Path) -> None:
        """
        With `--chain-only` a broken chain is still broken.
        """
        write_log(path)
        put(path, lines_of(path)[::-1])

        called = call("verify", "--chain-only")

        assert 1 == called.code
        assert called.out.endswith("\ntampered: the log is not what was written\n")

    @pytest.mark.parametrize(
        ("args", "said"),
        [
            (["nothing.jsonl"], "there is no audit log at nothing.jsonl"),
            (["."], ". is a folder; name the file in it"),
            (["--key", "nothing"], "nothing cannot be read: No such file or directory"),
            (["--key", "audit.jsonl"], "audit.jsonl holds no key"),
            (["--public-key", "nothing"], "nothing cannot be read"),
            (["--anchor", "first.key"], "first.key has no anchor"),
            (["--key", "first.key", "--state", "first.key"], "is no key file of a writer"),
        ],
        ids=" ".join,
    )
    def test_cannot_judge(
        self, call: Call, path: Path, first: Path, args: list[str], said: str
    ) -> None:
        """
        2: the log, or what it is compared with, is missing or something else.
        """
        write_log(path)

        called = call("verify", *args)

        assert (2, "") == (called.code, called.out)
        assert said in called.err
        assert 1 == len(called.err.splitlines())

    def test_setting(self, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        A malformed setting is no verdict either.
        """
        monkeypatch.setenv("HARKEN_AUDIT_MAX_BYTES", "many")

        assert 2 == call("verify").code

    @pytest.mark.parametrize("error", [OSError(5, "Input/output error"), MemoryError("no room")])
    def test_trouble_of_its_own(
        self, call: Call, path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
    ) -> None:
        """
        Whatever goes wrong in the command never looks like a log that was tampered with.
        """
        write_log(path)

        def fail(*args: object, **options: object) -> None:
            raise error

        monkeypatch.setattr(harken.cli.verify, "verify", fail)

        called = call("verify")

        assert (2, "") == (called.code, called.out)
        assert str(error.args[-1]) in called.err

    def test_a_state_without_a_key(self, call: Call, path: Path) -> None:
        """
        It is not passed over: a log that was cut would be verified.
        """
        write_log(path)
        Path("anchors").write_text(call("head").out)

        called = call("verify", "--state", "agent.key", "--anchor", "anchors")

        assert (2, True) == (called.code, "--state is compared with seals" in called.err)

    def test_the_state_of_another_key(self, call: Call, path: Path, first: Path) -> None:
        write_log(path)
        create_key("other.key")

        called = call("verify", "--state", "other.key", "--key", str(first))

        assert (2, True) == (called.code, "other.key is of the key" in called.err)

    @pytest.mark.parametrize("option", ["--key", "--public-key", "--anchor", "--state"])
    def test_contradiction(self, call: Call, option: str) -> None:
        """
        `--chain-only` leaves no use for a key or an anchor.
        """
        assert 2 == call("verify", "--chain-only", option, "x").code


class TestWhatVouches:
    def test_anchor(self, call: Call, path: Path) -> None:
        """
        What `harken head` printed, in either form, is an anchor.
        """
        write_log(path)
        for args in ([], ["--json"]):
            Path("anchors").write_text(call("head", *args).out)

            assert 0 == call("verify", "--anchor", "anchors").code

    def test_several_anchors(self, call: Call, path: Path) -> None:
        """
        A log that was rolled back to an older copy is caught by an anchor in any of the files.
        """
        write_log(path)
        Path("old").write_text(call("head").out)
        older = lines_of(path)
        write_log(path)
        Path("new").write_text(call("head").out)
        put(path, older)

        assert 0 == call("verify", "--anchor", "old").code
        called = call("verify", "--anchor", "old", "--anchor", "new")
        assert 1 == called.code
        assert "audit.jsonl:13: anchor: the log ends with the line 13, and the anchor new:1" in (
            called.out
        )

    def test_key_file_of_the_settings(
        self, call: Call, path: Path, first: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        The key file that the settings name shows that the last seals were cut off.
        """
        for _ in range(2):
            write_log(path, key=Path("agent.key"))
        put(path, lines_of(path)[:13])
        assert 3 == call("verify", "--key", str(first)).code

        monkeypatch.setenv("HARKEN_AUDIT_KEY_PATH", "agent.key")
        assert 1 == call("verify", "--key", str(first)).code

        monkeypatch.setenv("HARKEN_AUDIT_KEY_PATH", "nothing")
        called = call("verify", "--key", str(first))
        assert (3, True) == (called.code, "would not show: nothing cannot be read" in called.err)


class TestOutput:
    def test_json(self, call: Call, path: Path) -> None:
        """
        `--json` is one object with keys that stay.
        """
        write_log(path, 60, max_bytes=9000)
        put(path, lines_of(path)[1:])

        called = call("verify", "--json")

        answer = json.loads(called.out)
        assert 1 == answer["exit_code"] == called.code
        assert {
            "verdict",
            "exit_code",
            "path",
            "files",
            "lines",
            "seq",
            "head",
            "vouched_seq",
            "chain",
            "seals",
            "completeness",
            "tail",
            "findings",
            "omitted",
            "error",
        } == set(answer)
        assert [*[one.name for one in archives(path)], "audit.jsonl"] == [
            file["file"] for file in answer["files"]
        ]
        assert {"file", "bytes", "lines", "first_seq", "last_seq"} == set(answer["files"][0])
        assert {"verdict", "message"} == set(answer["chain"])
        assert ("chain", "missing", "tampered", "audit.jsonl", 1) == tuple(
            answer["findings"][0][name] for name in ("part", "kind", "weight", "file", "line")
        )

    def test_json_of_an_error(self, call: Call) -> None:
        """
        A script that asked for JSON gets JSON when the log cannot be judged, too.
        """
        called = call("verify", "nothing.jsonl", "--json")

        answer = json.loads(called.out)
        assert ("undecided", 2) == (answer["verdict"], answer["exit_code"])
        assert answer["error"] in called.err

    def test_many_findings(self, call: Call, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        What is too much to show is counted.
        """
        monkeypatch.setattr("harken.trail.findings.MAX_FINDINGS", 3)
        write_log(path)
        put(path, [line[:-1] + b"\r\n" for line in lines_of(path)])

        called = call("verify", "--chain-only")

        assert "\n... and 10 more\n" in called.out

    def test_hostile_names(self, call: Call, path: Path) -> None:
        """
        What stands in the log or in a name cannot steer a terminal.
        """
        write_log(path)
        hostile = Path("a\x1b[2J\n.jsonl")
        hostile.write_bytes(path.read_bytes().replace(b'"writer":"', b'"writer":"\\u001b[2J', 1))

        called = call("verify", str(hostile))

        assert "\x1b" not in called.out
        assert r"a\x1b[2J\n.jsonl:1: " in called.out

    def test_default_path(
        self, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        Without PATH it is the log of the settings.
        """
        monkeypatch.setenv("HARKEN_AUDIT_JSONL_PATH", str(tmp_path / "elsewhere.jsonl"))
        write_log(tmp_path / "elsewhere.jsonl")

        assert 0 == call("verify", "--chain-only").code

    def test_on_a_terminal(self, on_terminal: Call, path: Path) -> None:
        """
        A person sees a bar while it takes long, and the verdict afterwards.
        """
        write_log(path.resolve(), 3000)

        terminal = on_terminal("verify", "audit.jsonl", "--chain-only")

        assert 0 == terminal.wait()
        assert ("━" in terminal.shown, "MB" in terminal.shown) == (True, True)
        assert "verified: the chain holds" in terminal.shown

    def test_no_bar_elsewhere(self, harken: Call, path: Path) -> None:
        """
        Off a terminal there is no bar, and no colour.
        """
        write_log(path.resolve())

        done = harken("verify", "audit.jsonl", "--chain-only")

        assert ("", False) == (done.stderr, "\x1b" in done.stdout)


def test_errors_are_errors_of_harken() -> None:
    """
    Whoever calls the functions behind the command catches one kind of error.
    """
    from harken.errors import HarkenError

    assert issubclass(TrailError, HarkenError)


class TestEnvelope:
    def test_report(self, call: Call, path: Path) -> None:
        """
        With `-o json` the report is the answer of an envelope, as with all that reads the log.
        """
        write_log(path)

        called = call("verify", "-F", "audit.jsonl", "-o", "json")

        answer = json.loads(called.out)
        assert {"ok", "data", "error", "warnings", "meta"} == answer.keys()
        assert (3, "incomplete") == (called.code, answer["data"]["verdict"])
        assert ("verify", "audit.jsonl") == (answer["meta"]["command"], answer["meta"]["log"])

    def test_error(self, call: Call) -> None:
        """
        What keeps it from being judged is in the envelope, too.
        """
        called = call("verify", "-F", "none.jsonl", "-o", "json")

        answer = json.loads(called.out)
        assert (False, None, 2) == (answer["ok"], answer["data"], answer["error"]["exit_code"])
        assert 2 == called.code

    @pytest.mark.parametrize("command", ["verify", "head"])
    @pytest.mark.parametrize(
        "options", [["audit.jsonl", "-F", "audit.jsonl"], ["--json", "-o", "json"]]
    )
    def test_one_or_the_other(self, call: Call, command: str, options: list[str]) -> None:
        """
        The log is named once, and there is one form.
        """
        assert 2 == call(command, *options).code


def test_reader_that_has_enough(path: Path, started: Callable[..., Any]) -> None:
    """
    Who reads no further gets the exit code that says it all, and no complaint.
    """
    write_log(path)
    lines = lines_of(path)
    put(path, [lines[0], lines[1].replace(b"strike", b"stroke"), *lines[2:]])

    process = started("verify", "audit.jsonl")
    process.stdout.close()

    assert ("", 1) == (process.stderr.read(), process.wait(timeout=60))
