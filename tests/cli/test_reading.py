"""
The commands that read the log: what they answer, in which form, and with which exit code.
"""

from __future__ import annotations

import csv
import gzip
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any
from unicodedata import east_asian_width

import pytest
from tests.trail.corpora import BEGAN_NS, TEXTS, Chain, work
from tests.trail.stories import Story, write_story

pytestmark = pytest.mark.once

APPROVED = Path(__file__).with_name("approved")

Run = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[..., subprocess.Popen[str]]
OnTerminal = Callable[..., Any]

# Commands that read, with arguments for the log of the story.
READING = {
    "tail": ["tail", "-n", "4"],
    "query": ["query", "--type", "*.denied", "--type", "run.*"],
    "query-fields": ["query", "--fields", "seq,event_type,data.reason", "--outcome", "denied"],
    "show": ["show", "5"],
    "runs": ["runs"],
    "waterfall": ["trail", "r1"],
    "tree": ["trail", "r1", "--view", "tree", "--all"],
    "timeline": ["trail", "r1", "--view", "timeline"],
    "decisions": ["trail", "r1", "--view", "decisions"],
    "why": ["why", "5"],
    "why-within": ["why", "7"],
    "effects": ["why", "1", "--effects"],
    "stats": ["stats", "--by", "tool"],
    "stats-type": ["stats"],
    "diff": ["diff", "r1", "r2"],
    "audit-log": ["audit-log"],
}
CODES = {"diff": 80}

EXPORTS = ["csv", "html", "jsonl", "otlp", "ocsf", "ecs", "cloudevents"]

_ALMOST = b'{"timestamp":"2026-11-21T10:00:07.000000Z","seq":7,"event_type":"tool.started"%s}\n'
DAMAGE = {
    "bytes": _ALMOST % b',"run_id":"r1","actor":"\xff\xfe"',
    "bytes elsewhere": _ALMOST % b',"run_id":"r1","unknown":"\xff\xfe"',
    "kinds": _ALMOST % b',"run_id":"r1","id":[],"causation_id":{},"metadata":7',
    "numbers": _ALMOST.replace(b"7,", b"99999999999999999999,") % b',"run_id":"r1"',
    "amounts": _ALMOST % b',"run_id":"r1","metadata":{"duration_ms":1e308,"input_tokens":-1e99}',
    "beyond": _ALMOST % b',"run_id":"r1","metadata":{"duration_ms":1e400}',
    "times": _ALMOST % b',"run_id":"r1","occurred":"soon"',
    "zones": _ALMOST.replace(b"0Z", b"0") % b',"run_id":"r4"',
    "days": _ALMOST.replace(b"11-21", b"13-21") % b',"run_id":"r4"',
    "depth": _ALMOST % (b',"metadata":{"x":' + b"[" * 3000 + b"]" * 3000 + b"}"),
}

JSON_COMMANDS = [name for name in READING if name not in {"query-fields", "stats-type"}]


@pytest.fixture
def story(tmp_path: Path) -> Story:
    """
    A log in the folder of the test, at a path that the tests name with -F.
    """
    story = write_story(tmp_path / "audit.jsonl")
    story.add(
        *("command", "command.completed"),
        actor="user:ana",
        resource="command:deploy",
        correlation_id="test-123",
        metadata={"command": "deploy", "params": {"env": "prod"}, "exit_code": 0, "duration_ms": 5},
    )
    story.write()
    return story


def approved(name: str, text: str) -> None:
    """
    Compare *text* with what was approved; APPROVE=1 approves what is there now.
    """
    path = APPROVED / f"{name}.txt"
    shown = text.replace("\r\n", "\n").replace("\x1b", "␛")
    if os.environ.get("APPROVE") == "1":
        path.parent.mkdir(exist_ok=True)
        path.write_text(shown, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == shown


class TestText:
    @pytest.mark.parametrize("name", READING)
    @pytest.mark.parametrize("columns", [80, 140])
    def test_on_a_terminal(
        self, on_terminal: OnTerminal, story: Story, name: str, columns: int
    ) -> None:
        """
        On a terminal it is what was approved, in no line more columns than there are.
        """
        terminal = on_terminal(
            *READING[name],
            *("-F", "audit.jsonl", "--color", "never", "--tz", "utc"),
            env={"PYTHONUTF8": "1"},
            columns=columns,
        )

        assert CODES.get(name, 0) == terminal.wait()
        approved(f"{name}-{columns}", terminal.shown)
        if name != "show":
            assert columns >= max(map(len, terminal.shown.splitlines()))

    def test_why_on_a_narrow_terminal(self, on_terminal: OnTerminal, story: Story) -> None:
        """
        Each step keeps its number, and the sentence that says where the record ends is whole.
        """
        story.add("lost", "text.emitted", causation_id="gone-0123456789", actor="agent:" + "x" * 80)
        story.write()

        arguments = ("why", story.ids["lost"], "-F", "audit.jsonl", "--color", "never")
        terminal = on_terminal(*arguments, columns=60)

        assert 0 == terminal.wait()
        step, *lines = terminal.shown.splitlines()
        assert re.search(r"  #\d+$", step)
        assert (
            "The record ends here: the cause gone-0123456789 is not in this log "
            "(not audited, or elsewhere)."
        ) in " ".join(line.strip() for line in lines)
        assert 60 >= max(map(len, (step, *lines)))

    @pytest.mark.parametrize("name", READING)
    def test_in_colour(self, on_terminal: OnTerminal, story: Story, name: str) -> None:
        """
        The same with colours, which change nothing else.
        """
        terminal = on_terminal(
            *READING[name], *("-F", "audit.jsonl", "--tz", "utc"), env={"PYTHONUTF8": "1"}
        )

        assert CODES.get(name, 0) == terminal.wait()
        approved(f"{name}-80-color", terminal.shown)
        plain = re.sub("\x1b\\[[0-9;]*m", "", terminal.shown)
        assert (APPROVED / f"{name}-80.txt").read_text("utf-8") == plain.replace("\r\n", "\n")

    @pytest.mark.parametrize("options", [["--color", "always"], []])
    def test_colours_when_asked_for(self, harken: Run, story: Story, options: list[str]) -> None:
        """
        Off a terminal there are colours only for who asks for them.
        """
        done = harken("tail", "-F", "audit.jsonl", "-o", "text", *options)

        assert bool(options) == ("\x1b[" in done.stdout)

    def test_without_lines_to_draw(self, harken: Run, story: Story) -> None:
        """
        Where the encoding has no lines and bars, they are drawn with letters.
        """
        for arguments in (["trail", "r1"], ["why", "5", "-o", "text"]):
            done = harken(*arguments, "-F", "audit.jsonl", env={"PYTHONIOENCODING": "ascii"})
            assert done.stdout.isascii()
            assert "\\u" not in done.stdout

    @pytest.mark.parametrize("name", READING)
    def test_hostile_text(self, on_terminal: OnTerminal, tmp_path: Path, name: str) -> None:
        """
        What agents write steers no terminal: it is shown as text.
        """
        evil = "\x1b[2J\x07\x9b31m\u202eabc\u2066\r\n=cmd()\u2028</script>"
        story = Story(tmp_path / "audit.jsonl")
        ids = {"run_id": "r1", "session_id": evil}
        data = {"tool_name": evil, "reason": evil, "prompt": evil, "command": evil, evil: evil}
        for number, kind in enumerate(("run.started", "tool.started", "approval.denied") * 3):
            outcome = None if kind.endswith("started") else "denied"
            story.add(
                str(number),
                kind,
                actor=f"agent:{evil}",
                resource=f"tool:{evil}",
                outcome=outcome,
                metadata=data,
                **{**ids, "run_id": "r2" if number > 5 else "r1"},
            )
        story.add("c", "command.completed", metadata=data, correlation_id=evil)
        story.write()

        terminal = on_terminal(*READING[name], "-F", "audit.jsonl", env={"PYTHONUTF8": "1"})

        terminal.wait()
        seen = re.sub("\x1b\\[[0-9;]*m", "", terminal.shown.replace("\r\n", "\n"))
        assert all(char == "\n" or char.isprintable() for char in seen)

    @pytest.mark.parametrize("name", READING)
    def test_wide_characters(self, on_terminal: OnTerminal, tmp_path: Path, name: str) -> None:
        """
        Characters that take two columns leave lines no longer, and columns below each other.
        """
        wide = "東京の天気予報を調べる" * 6
        story = Story(tmp_path / "audit.jsonl")
        data = {"tool_name": wide, "reason": wide, "prompt": wide, "command": wide}
        for number, kind in enumerate(("run.started", "tool.started", "approval.denied") * 3):
            outcome = None if kind.endswith("started") else "denied"
            run = "r2" if number > 5 else "r1"
            members = {"actor": f"agent:{wide}", "resource": f"tool:{wide}", "run_id": run}
            story.add(str(number), kind, outcome=outcome, metadata=data, **members)
        story.add("c", "command.completed", metadata=data, correlation_id=wide)
        story.write()

        terminal = on_terminal(*READING[name], "-F", "audit.jsonl", env={"PYTHONUTF8": "1"})

        terminal.wait()
        plain = re.sub("\x1b\\[[0-9;]*m", "", terminal.shown)
        assert "東" in plain or name in {"stats-type", "query-fields"}
        if name != "show":
            assert 80 >= max(
                sum(1 + (east_asian_width(char) in "WF") for char in line)
                for line in plain.splitlines()
            )

    def test_numbers_and_their_nouns(self, harken: Run, tmp_path: Path) -> None:
        """
        One is one error, and two are two errors.
        """
        story = Story(tmp_path / "audit.jsonl")
        story.add("a", "tool.failed", outcome="failure", run_id="r1")
        story.add("b", "tool.failed", outcome="failure", run_id="r2")
        story.add("c", "tool.failed", outcome="failure", run_id="r2")
        story.write()

        one, two = (harken("trail", run, "-F", "audit.jsonl").stdout for run in ("r1", "r2"))

        assert "  1 error  " in one
        assert "  2 errors  " in two


class TestPager:
    @pytest.fixture
    def pager(self, tmp_path: Path) -> str:
        """
        The command of a pager that shows what it is in.
        """
        (tmp_path / "pager.py").write_text(
            "import os, sys\nprint('LESS is', os.environ['LESS'])\n"
            "for line in sys.stdin: print('>', line, end='')\n"
        )
        return f"{sys.executable} pager.py"

    @pytest.mark.parametrize(
        ("options", "env", "pages"),
        [
            ([], {"HARKEN_PAGER": "{}"}, True),
            (["--pager"], {"HARKEN_PAGER": "{}", "PAGER": "false"}, True),
            (["--pager"], {"PAGER": "{}"}, True),
            ([], {"PAGER": "{}"}, False),
            (["--no-pager"], {"HARKEN_PAGER": "{}"}, False),
            (["-o", "jsonl"], {"HARKEN_PAGER": "{}"}, False),
        ],
    )
    def test_when_asked_for(
        self,
        on_terminal: OnTerminal,
        story: Story,
        pager: str,
        options: list[str],
        env: dict[str, str],
        pages: bool,
    ) -> None:
        """
        Text on a terminal is shown page by page for who asked for that, as it would be without.
        """
        bare = {"HARKEN_PAGER": None, "PAGER": None, "LESS": None, "PYTHONUTF8": "1"}
        given = {name: value.format(pager) for name, value in env.items()}
        asked = ("query", "-F", "audit.jsonl", "--tz", "utc")
        terminal = on_terminal(*asked, *options, env=bare | given)
        plain = on_terminal(*asked, *options, "--no-pager", env=bare)

        assert (0, 0) == (terminal.wait(), plain.wait())
        lines = [*terminal.shown.splitlines()]
        if pages:
            assert "LESS is FRX" == lines.pop(0)
            lines = [line.removeprefix("> ") for line in lines]
        assert plain.shown.splitlines() == lines

    def test_off_a_terminal(self, harken: Run, story: Story, pager: str) -> None:
        """
        What a program reads goes through no pager.
        """
        asked = ("query", "-F", "audit.jsonl", "-o", "text", "--pager")

        assert "LESS" not in harken(*asked, env={"HARKEN_PAGER": pager}).stdout

    def test_that_was_left(self, on_terminal: OnTerminal, tmp_path: Path) -> None:
        """
        Who has seen enough leaves the pager, which is no failure.
        """
        (tmp_path / "a.jsonl").write_bytes(b"".join(Chain().lines(work(5000))))

        terminal = on_terminal("query", "-F", "a.jsonl", env={"HARKEN_PAGER": "true"})

        assert (0, "") == (terminal.wait(), terminal.shown)

    def test_that_is_not_there(self, on_terminal: OnTerminal, story: Story) -> None:
        """
        Without the pager it is answered all the same.
        """
        terminal = on_terminal("runs", "-F", "audit.jsonl", env={"HARKEN_PAGER": "no-such"})

        assert 0 == terminal.wait()
        assert "Warning: no-such does not start: No such file or directory" in terminal.shown
        assert "r1" in terminal.shown

    def test_exit_code(self, on_terminal: OnTerminal, story: Story, pager: str) -> None:
        """
        The exit code is that of the answer.
        """
        env = {"HARKEN_PAGER": pager}

        assert 80 == on_terminal("diff", "r1", "r2", "-F", "audit.jsonl", env=env).wait()
        assert 5 == on_terminal("trail", "r9", "-F", "audit.jsonl", env=env).wait()

    def test_ctrl_c(self, on_terminal: OnTerminal, story: Story, tmp_path: Path) -> None:
        """
        Ctrl-C is for the pager, which ends when its user wants it to.
        """
        (tmp_path / "pager.py").write_text(
            "import signal, sys, time\n"
            "keys = []\n"
            "def pressed(*_):\n"
            "    keys.append(1)\n"
            "    if len(keys) == 2: sys.exit()\n"
            "    print('still here', flush=True)\n"
            "signal.signal(signal.SIGINT, pressed)\n"
            "print(sys.stdin.read(), flush=True)\n"
            # signal.pause() would miss a key between the look for signals and the call.
            "while True: time.sleep(0.01)\n"
        )
        pager = f"{sys.executable} pager.py"
        terminal = on_terminal("runs", "-F", "audit.jsonl", env={"HARKEN_PAGER": pager})
        terminal.read_until("r3")

        terminal.type("\x03")
        terminal.read_until("still here")
        terminal.type("\x03")

        assert 0 == terminal.wait()

    def test_follow(self, on_terminal: OnTerminal, story: Story, pager: str) -> None:
        """
        What has no end goes through no pager.
        """
        env = {"HARKEN_PAGER": pager, "PYTHONUTF8": "1"}
        terminal = on_terminal("tail", "-f", "-F", "audit.jsonl", env=env)
        terminal.read_until("#11")
        terminal.type("\x03")

        assert 130 == terminal.wait()
        assert "LESS" not in terminal.shown


class TestForms:
    @pytest.mark.parametrize("name", JSON_COMMANDS)
    def test_envelope(self, harken: Run, story: Story, name: str) -> None:
        """
        As JSON it is one envelope with all five members, and the trace id that was given.
        """
        done = harken(
            *READING[name],
            *("-F", "audit.jsonl", "-o", "json"),
            env={"TOOL_TRACE_ID": "test-123"},
            returncode=CODES.get(name, 0),
        )

        answer = json.loads(done.stdout)
        assert {"ok", "data", "error", "warnings", "meta"} == answer.keys()
        assert (True, None, []) == (answer["ok"], answer["error"], answer["warnings"])
        assert {
            "trace_id": "test-123",
            "schema_version": "1.0",
            "content_trust": "untrusted",
            "truncated": False,
            "command": READING[name][0],
        }.items() <= answer["meta"].items()
        assert answer["data"]
        assert done.stdout.isascii()

    @pytest.mark.parametrize("trace_id", [None, "", "a\nb", "x" * 129])
    def test_no_trace_id(self, harken: Run, story: Story, trace_id: str | None) -> None:
        """
        Without a usable TOOL_TRACE_ID there is none.
        """
        done = harken("runs", "-F", "audit.jsonl", env={"TOOL_TRACE_ID": trace_id})

        assert "trace_id" not in json.loads(done.stdout)["meta"]

    @pytest.mark.parametrize("name", ["tail", "query", "audit-log"])
    def test_streams_off_a_terminal(self, harken: Run, story: Story, name: str) -> None:
        """
        Off a terminal, what is a stream is a line of JSON for each record.
        """
        done = harken(*READING[name], "-F", "audit.jsonl")

        found = [json.loads(line) for line in done.stdout.splitlines()]
        assert found
        assert all("timestamp" in record for record in found)

    def test_lines_are_those_of_the_log(self, harken: Run, story: Story) -> None:
        """
        A line that is printed is the line of the log, which can be verified.
        """
        assert story.path.read_text() == harken("query", "-F", "audit.jsonl").stdout

    def test_foreign_text_becomes_ascii(self, harken: Run, tmp_path: Path) -> None:
        """
        A line that is no ASCII is spelt otherwise, with the same meaning.
        """
        record = {"timestamp": "2026-11-21T10:00:00Z", "seq": 1, "event_type": "x\u202e\x85"}
        (tmp_path / "a.jsonl").write_text(json.dumps(record, ensure_ascii=False) + "\n")

        done = harken("query", "-F", "a.jsonl", returncode=0)

        assert record == json.loads(done.stdout)
        assert done.stdout.isascii()

    @pytest.mark.parametrize("name", ["tail", "query", "runs", "stats", "audit-log"])
    def test_tables(self, harken: Run, tmp_path: Path, name: str) -> None:
        """
        A table has no formula and no control character, and as many cells in each row.
        """
        story = Story(tmp_path / "audit.jsonl")
        for number, text in enumerate((*TEXTS, "=1+1", "+1", "-1", "@a")):
            data = {"command": text, "tool_name": text}
            story.add(str(number), "command.completed", actor=text, run_id=text, metadata=data)
        story.write()

        arguments = [*READING[name], "--by", "actor"] if name == "stats" else [name]
        done = harken(*arguments, "-F", "audit.jsonl", "-o", "csv")

        head, *rows = csv.reader(StringIO(done.stdout))
        assert rows
        assert {len(head)} == set(map(len, rows))
        for row in rows:
            for cell in row:
                assert cell.isprintable()
                assert cell[:1] not in set("=+-@") or re.fullmatch(r"-?[0-9.]+", cell)

    def test_fields(self, harken: Run, story: Story) -> None:
        """
        Only the members that are asked for are printed, in every form.
        """
        asked = ("--fields", "seq,data.reason,data.none", "--type", "approval.denied")
        jsonl = harken("query", "-F", "audit.jsonl", *asked).stdout
        whole = harken("query", "-F", "audit.jsonl", *asked, "-o", "json").stdout
        table = harken("query", "-F", "audit.jsonl", *asked, "-o", "csv").stdout

        expected = {"seq": 5, "data.reason": "no", "data.none": None}
        assert expected == json.loads(jsonl)
        assert [expected] == json.loads(whole)["data"]
        assert "seq,data.reason,data.none\n5,no,\n" == table

    @pytest.mark.parametrize(
        "asked", [("--where", "reason=no"), ("--where", "reason!=no"), ("--fields", "seq,reason")]
    )
    def test_a_member_that_no_record_has(
        self, harken: Run, story: Story, asked: tuple[str, str]
    ) -> None:
        """
        A name that belongs into metadata is warned of, and the answer is what was asked for.
        """
        done = harken("query", "audit.jsonl", *asked, "-o", "json")

        answer = json.loads(done.stdout)
        (warning,) = answer["warnings"]
        assert warning.startswith("'reason' is no member of a record")
        assert warning.endswith("did you mean metadata.reason?")
        assert f"Warning: {warning}\n" == done.stderr
        assert answer["ok"] is True
        assert (asked == ("--where", "reason=no")) is (answer["data"] == [])

    @pytest.mark.parametrize(
        ("path", "meant"),
        [
            ("type", "event_type or metadata.type"),
            ("time", "timestamp or metadata.time"),
            ("actr.x", "actor or metadata.actr.x"),
        ],
    )
    def test_a_member_of_another_name(
        self, harken: Run, story: Story, path: str, meant: str
    ) -> None:
        """
        It is told once, however often it is asked for.
        """
        asked = ("--where", f"{path}=x", "--where", f"{path}!=y", "--fields", f"seq, {path}")
        done = harken("query", "audit.jsonl", *asked)

        assert 1 == done.stderr.count("\n")
        assert f"did you mean {meant}?" in done.stderr

    @pytest.mark.parametrize(
        "path", ["data.reason", "metadata.reason.more", "hash", "attributes.x"]
    )
    def test_members_that_a_record_can_have(self, harken: Run, story: Story, path: str) -> None:
        done = harken("query", "audit.jsonl", "--where", f"{path}!=no", "--fields", path)

        assert "" == done.stderr

    @pytest.mark.parametrize("command", ["tail", "query", "runs", "stats"])
    def test_the_path_as_an_argument(self, harken: Run, story: Story, command: str) -> None:
        """
        The log may be named without -F, and only once.
        """
        named = harken(command, "-F", "audit.jsonl", "-o", "jsonl").stdout

        assert named
        assert named == harken(command, "audit.jsonl", "-o", "jsonl").stdout
        harken(command, "audit.jsonl", "-F", "audit.jsonl", returncode=2)
        assert "nowhere.jsonl" in harken(command, "nowhere.jsonl", returncode=4).stderr

    def test_limit(self, harken: Run, tmp_path: Path) -> None:
        """
        Off a terminal there are at most 1000 records, and it is said that there are more.
        """
        (tmp_path / "a.jsonl").write_bytes(b"".join(Chain().lines(work(1200))))

        done = harken("query", "-F", "a.jsonl")
        whole = harken("query", "-F", "a.jsonl", "--limit", "0")
        some = json.loads(harken("query", "-F", "a.jsonl", "-o", "json", "--limit", "2").stdout)

        assert (1000, 1200) == (len(done.stdout.splitlines()), len(whole.stdout.splitlines()))
        assert "more than 1,000 records" in done.stderr
        assert (True, 2) == (some["meta"]["truncated"], len(some["data"]))

    def test_last_of_what_is_wanted(self, harken: Run, story: Story) -> None:
        """
        -n counts what is wanted, also with --since.
        """
        done = harken(
            *("tail", "-F", "audit.jsonl", "-n", "1", "--type", "*.denied"),
            *("--since", "2026-11-21T10:00:00Z", "--fields", "seq"),
        )

        assert '{"seq":6}\n' == done.stdout


class TestTimes:
    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            (["--since", "id:{answer}"], [5, 6, 7, 8, 9, 10, 11]),
            (["--until", "id:{answer}"], [1, 2, 3, 4, 5]),
            (["--since", "run:r2"], [8, 9, 10, 11]),
            (["--until", "run:r2"], [1, 2, 3, 4, 5, 6, 7, 8, 9]),
            (["--since", "run:r2", "--until", "run:r2"], [8, 9]),
            (["--since", "2026-11-21T12:00", "--tz", "utc"], []),
            (["--outcome", "error"], [9]),
        ],
    )
    def test_forms(
        self, harken: Run, story: Story, options: list[str], expected: list[int]
    ) -> None:
        """
        Times may be those of a run or of an event; both ends are wanted.
        """
        words = [option.format(answer=story.ids["answer"]) for option in options]
        done = harken("query", "-F", "audit.jsonl", "--fields", "seq", *words)

        assert expected == [json.loads(line)["seq"] for line in done.stdout.splitlines()]


class TestWhereTheLogIs:
    def test_variable(self, harken: Run, story: Story) -> None:
        """
        Without -F it is where HARKEN_AUDIT_JSONL_PATH says; other settings do not matter.
        """
        env = {"HARKEN_AUDIT_JSONL_PATH": "audit.jsonl", "HARKEN_LOG_FORMAT": "nonsense"}

        assert 11 == len(harken("query", env=env).stdout.splitlines())

    @pytest.mark.parametrize(
        ("env", "folder"),
        [
            ({"XDG_DATA_HOME": "{}/data"}, "data/harken"),
            ({"XDG_DATA_HOME": "{}/data", "HARKEN_SERVICE_NAME": "bot"}, "data/bot"),
            ({"HOME": "{}/home"}, "home/.local/share/harken"),
        ],
    )
    def test_default(
        self, harken: Run, story: Story, tmp_path: Path, env: dict[str, str], folder: str
    ) -> None:
        """
        Else it is where programs of this user write it by default.
        """
        (tmp_path / folder).mkdir(parents=True)
        story.path.rename(tmp_path / folder / "audit.jsonl")

        done = harken("query", env={name: value.format(tmp_path) for name, value in env.items()})

        assert 11 == len(done.stdout.splitlines())

    def test_no_home(self, run_python: Any) -> None:
        """
        Without a home folder, it is said how to name the log.
        """
        code = "from pathlib import Path\n"
        code += "def home(): raise RuntimeError\nPath.home = home\n"
        code += "import sys\nfrom harken.cli import main\nmain(['tail'])"

        done = run_python(code, returncode=4)

        (line,) = done.stderr.splitlines()
        assert "-F" in line


class TestBadInput:
    @pytest.mark.parametrize(
        ("code", "arguments", "word"),
        [
            (4, ["query", "-F", "none.jsonl"], "there is no audit log at none.jsonl"),
            (4, ["tail", "-F", "."], "is a folder"),
            (2, ["query", "-F", "audit.jsonl", "--since", "soon"], "is no time"),
            (2, ["query", "-F", "audit.jsonl", "--where", "x"], "is no condition"),
            (2, ["query", "-F", "audit.jsonl", "--where", "outcome==denied"], "has two signs"),
            (2, ["stats", "audit.jsonl", "--since", "1h", "--until", "2h"], "exchange them"),
            (2, ["tail", "audit.jsonl", "--cursor-file", "audit.jsonl"], "name another file"),
            (2, ["query", "-F", "audit.jsonl", "--outcome", "fail"], "use error, success,"),
            (2, ["query", "-F", "audit.jsonl", "--type", "a.b,c.d"], "--type once for each"),
            (2, ["stats", "-F", "audit.jsonl", "--p", "x"], "is no list of percentiles"),
            (2, ["query", "-F", "audit.jsonl", "--cursor-file", "audit.jsonl"], "holds no cursor"),
            (5, ["show", "-F", "audit.jsonl", "99"], "there is no record 99"),
            (5, ["why", "-F", "audit.jsonl", "99"], "there is no record 99"),
            (5, ["trail", "-F", "audit.jsonl", "r9"], "there is no run r9"),
            (5, ["diff", "-F", "audit.jsonl", "r1", "r9"], "there is no run r9"),
            (5, ["query", "-F", "audit.jsonl", "--since", "run:r9"], "there is no run r9"),
            (4, ["export", "csv", "-F", "audit.jsonl", "-O", "no/such/file"], "cannot be written"),
        ],
    )
    def test_is_one_sentence(
        self, harken: Run, story: Story, code: int, arguments: list[str], word: str
    ) -> None:
        """
        What cannot be answered is told in one sentence, with an exit code of its own.
        """
        done = harken(*arguments, returncode=code)

        (line,) = done.stderr.splitlines()
        assert line.startswith("Error: ")
        assert word in line
        # Off a terminal, what answers with an envelope tells it there, too.
        assert not done.stdout or json.loads(done.stdout)["ok"] is False

    def test_cursor_that_cannot_be_kept(self, harken: Run, story: Story) -> None:
        """
        The file that was asked for is named.
        """
        arguments = ("query", "-F", "audit.jsonl", "-n", "1", "--cursor-file", "no/such")

        done = harken(*arguments, returncode=4)

        assert "Error: no/such: No such file or directory\n" == done.stderr

    def test_in_the_envelope(self, harken: Run, story: Story) -> None:
        """
        Who asked for JSON gets the error as JSON, too.
        """
        done = harken("show", "-F", "audit.jsonl", "99", "-o", "json", returncode=5)

        answer = json.loads(done.stdout)
        error = answer["error"]
        assert (False, None) == (answer["ok"], answer["data"])
        assert "99" in error.pop("message")
        assert {
            "code": "NOT_FOUND",
            "exit_code": 5,
            "retryable": False,
            "phase": "execution",
            "kind": "NotFoundError",
        } == error

    def test_nothing_found(self, harken: Run, story: Story) -> None:
        """
        That nothing matches is no error, but for who wants it to be one.
        """
        empty = ("query", "-F", "audit.jsonl", "--type", "none")

        assert [] == json.loads(harken(*empty, "-o", "json").stdout)["data"]
        assert "" == harken(*empty).stdout
        harken(*empty, "--fail-empty", returncode=81)
        harken("query", "-F", "audit.jsonl", "--fail-match", returncode=81)
        harken("runs", "-F", "audit.jsonl", "--run", "none", "--fail-empty", returncode=81)

    def test_empty_log(self, harken: Run, tmp_path: Path) -> None:
        """
        An empty log has nothing to show, and that is no error.
        """
        (tmp_path / "audit.jsonl").touch()

        for arguments in (["tail"], ["query"], ["runs"], ["stats"], ["audit-log"]):
            harken(*arguments, "-F", "audit.jsonl", "-o", "text")

    def test_what_cannot_be_read_is_told(self, harken: Run, story: Story) -> None:
        """
        Foreign lines, a torn end and invalid UTF-8 are named, and the rest is answered.
        """
        lines = story.path.read_bytes().splitlines(keepends=True)
        lines[3:3] = [b"foreign\n", b'{"timestamp":"\xff"}\n']
        story.path.write_bytes(b"".join(lines) + b'{"timestamp":')

        done = harken("query", "-F", "audit.jsonl", returncode=3)

        assert 11 == len(done.stdout.splitlines())
        assert 3 == len(done.stderr.splitlines())
        assert all("audit.jsonl at byte" in line for line in done.stderr.splitlines())

    def test_many_foreign_lines(self, harken: Run, tmp_path: Path) -> None:
        """
        Of many such lines the first ones are named, and the others counted.
        """
        (tmp_path / "a.jsonl").write_bytes(b"foreign\n" * 5000)

        done = harken("query", "-F", "a.jsonl", returncode=3)

        assert 12 == len(done.stderr.splitlines())
        assert "nothing in a.jsonl is a record" in done.stderr
        assert "4,989 more" in done.stderr or "4,990 more" in done.stderr

    def test_permission(self, run_python: Any, story: Story, tmp_path: Path) -> None:
        """
        A log that this user may not read is exit code 7; an archive is a warning.
        """
        for parent in (tmp_path, *tmp_path.parents[:3]):
            parent.chmod(0o755)
        os.chmod(story.path, 0o600)
        archive = tmp_path / "audit.jsonl.1"
        archive.write_bytes(story.lines[0])
        archive.chmod(0o600)
        # What is loaded later would have to be readable, too.
        code = "import os\nimport harken.cli.query\nfrom harken.cli import main\n"
        # Not the effective user alone: what asks whether it may, is told of the real one.
        code += "if os.geteuid() == 0: os.setuid(65534)\nelse: os.chmod({0!r}, 0)\n"
        code += "main(['query', '-F', 'audit.jsonl'])"

        # Whoever measures coverage could not write its files.
        bare = {"COVERAGE_PROCESS_CONFIG": None, "COVERAGE_PROCESS_START": None}
        refused = run_python(code.format("audit.jsonl"), returncode=7, env=bare)
        story.path.chmod(0o644)
        partial = run_python(code.format("audit.jsonl.1"), returncode=3, env=bare)

        (line,) = refused.stderr.splitlines()
        assert "run this as a user who may read it" in line
        assert 11 == len(partial.stdout.splitlines())
        assert "audit.jsonl.1" in partial.stderr

    @pytest.mark.parametrize("name", [*READING, *EXPORTS])
    @pytest.mark.parametrize("damage", DAMAGE)
    def test_damaged_record(
        self, call: Callable[..., Any], story: Story, name: str, damage: str
    ) -> None:
        """
        What has the form of a record and is none keeps nothing else from being answered.
        """
        story.lines[6:6] = [DAMAGE[damage]]
        story.write()
        arguments = READING.get(name) or ["export", name]

        called = call(*arguments, "-F", str(story.path))

        assert called.code in {0, 3, CODES.get(name)}
        assert called.out
        assert (called.code == 3) == (called.err != "")

    def test_is_told_once(self, harken: Run, story: Story) -> None:
        """
        What cannot be read is told once, however often an answer comes across it.
        """
        story.lines.insert(2, b"foreign\n")
        story.path.write_bytes(b"".join(story.lines) + b"torn")

        done = harken("why", "5", "-F", "audit.jsonl", returncode=3)

        assert sorted(set(done.stderr.splitlines())) == sorted(done.stderr.splitlines())
        assert 2 == len(done.stderr.splitlines())

    def test_torn_archive(self, harken: Run, story: Story, tmp_path: Path) -> None:
        """
        An archive that ends too early is named once; what is whole of it is answered.
        """
        archive = tmp_path / "audit.jsonl.1.gz"
        archive.write_bytes(gzip.compress(b"".join(Chain().lines(work(2000))))[:-100])

        done = harken("query", "-F", "audit.jsonl", "--limit", "0", returncode=3)

        assert 11 < len(done.stdout.splitlines()) < 2011
        (line,) = done.stderr.splitlines()
        assert line.startswith("Warning: audit.jsonl.1.gz: cannot be decompressed: ")

    @pytest.mark.parametrize(
        ("number", "said"), [("5", "damaged or missing"), ("11", None), ("12", "no record 12 in")]
    )
    def test_a_record_that_is_damaged(
        self, harken: Run, story: Story, tmp_path: Path, number: str, said: str | None
    ) -> None:
        """
        It is not the same as one that was never there.
        """
        lines = (tmp_path / "audit.jsonl").read_bytes().splitlines(keepends=True)
        lines[4] = b"x" + lines[4][1:]
        (tmp_path / "audit.jsonl").write_bytes(b"".join(lines))

        done = harken("show", number, "-F", "audit.jsonl", returncode=0 if said is None else 5)

        assert ("damaged" in done.stderr) is (number == "5")
        assert said is None or said in done.stderr

    def test_empty_archive(self, harken: Run, story: Story, tmp_path: Path) -> None:
        """
        A compressed file that a full disk left empty is named.
        """
        (tmp_path / "audit.jsonl.1.gz").touch()

        done = harken("runs", "audit.jsonl", returncode=3)

        assert "Warning: audit.jsonl.1.gz: it is empty, and no compressed file is\n" == done.stderr

    def test_record_without_id(self, harken: Run, tmp_path: Path) -> None:
        """
        What has no id led to nothing, not to all that has no cause.
        """
        lines = Chain().lines([{**record, "id": None} for record in work(3)])
        (tmp_path / "a.jsonl").write_bytes(b"".join(lines))

        done = harken("why", "1", "--effects", "-F", "a.jsonl")

        assert (1, 0) == (
            len(json.loads(done.stdout)["data"]["effects"]),
            json.loads(done.stdout)["data"]["count"],
        )

    def test_two_writers(self, harken: Run, tmp_path: Path) -> None:
        """
        Records of two writers are those of one log.
        """
        from tests.trail.logs import write_log

        write_log(tmp_path / "audit.jsonl", 3)
        write_log(tmp_path / "audit.jsonl", 4)

        done = harken("query", "-F", "audit.jsonl", "--type", "trail_test.*")

        assert 7 == len(done.stdout.splitlines())


class TestPipes:
    def test_reader_that_has_enough(self, tmp_path: Path) -> None:
        """
        A reader that closes the pipe is no failure.
        """
        (tmp_path / "a.jsonl").write_bytes(b"".join(Chain().lines(work(5000))))
        command = f"{sys.executable} -m harken query -F a.jsonl --limit 0; echo $? >code"

        done = subprocess.run(
            f"({command}) | head -1",
            shell=True,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )

        assert 1 == len(done.stdout.splitlines())
        assert ("", "0\n") == (done.stderr, (tmp_path / "code").read_text())

    @pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full here")
    @pytest.mark.parametrize("command", ["query", "runs", "trail r1"])
    def test_full_disk(self, story: Story, command: str) -> None:
        """
        What cannot be written is one sentence.
        """
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                [sys.executable, "-m", "harken", *command.split(), "-F", "audit.jsonl"],
                cwd=story.path.parent,
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
            )

        (line,) = done.stderr.splitlines()
        assert (4, True) == (done.returncode, "No space left" in line)


class TestLongChains:
    @pytest.fixture
    def chain(self, tmp_path: Path) -> Story:
        story = Story(tmp_path / "audit.jsonl")
        story.add("0", "run.started", outcome=None, run_id="r1")
        for number in range(1, 30):
            kind = "approval.granted" if number == 10 else "text.emitted"
            story.add(str(number), kind, causation_id=str(number - 1), run_id="r1")
        story.write()
        return story

    def test_are_folded(self, harken: Run, chain: Story) -> None:
        """
        Of many steps the first, the last and the decisions are shown, then the nearest.
        """
        done = harken("why", "30", "-F", "audit.jsonl", "-o", "text", "--depth", "4")
        whole = harken("why", "30", "-F", "audit.jsonl", "-o", "text", "--all")

        shown = [line.split("#")[-1] for line in done.stdout.splitlines() if "#" in line]
        assert ["30", "29", "11", "1"] == shown
        assert "26 steps folded (--all)." in done.stdout
        assert 31 == len(whole.stdout.splitlines())

    def test_of_effects_are_folded(self, harken: Run, chain: Story) -> None:
        """
        Effects are shown as deep as was asked for.
        """
        done = harken("why", "1", "--effects", "-F", "audit.jsonl", "-o", "text", "--depth", "4")

        assert 5 + 2 == len(done.stdout.splitlines())
        assert "25 events folded (--all)." in done.stdout

    def test_end(self, harken: Run, chain: Story) -> None:
        """
        Where the record ends, or goes in a circle, it says so.
        """
        chain.add("lone", "error.raised", causation_id="gone", run_id="r1")
        chain.add("other", "error.raised", causation_id="lone")
        chain.add("no cause", "error.raised")
        chain.write()

        asked = ("-F", "audit.jsonl", "-o", "text")
        assert "the cause gone is not in this log" in harken("why", "31", *asked).stdout
        assert "It is a part of run r1" in harken("why", "31", *asked).stdout
        assert "No cause was recorded." in harken("why", "33", *asked).stdout
        assert "Nothing on record names it" in harken("why", "33", "--effects", *asked).stdout


class TestDepth:
    """
    Operations and causes may be as deep as an agent runs long.
    """

    @pytest.fixture
    def deep(self, tmp_path: Path) -> Story:
        story = Story(tmp_path / "audit.jsonl")
        for number in range(1500):
            spans = {"span_id": f"{number + 1:016x}", "parent_span_id": f"{number:016x}"}
            members = {"causation_id": str(number - 1), "outcome": None, "run_id": "r1"}
            story.add(str(number), "operation.started", after=0.001, **spans, **members)
        story.write()
        return story

    @pytest.mark.parametrize(
        ("arguments", "members"),
        [
            (["trail", "r1", "-o", "json"], "nodes"),
            (["why", "1", "--effects", "-o", "json"], "effects"),
        ],
    )
    def test_in_json(self, harken: Run, deep: Story, arguments: list[str], members: str) -> None:
        """
        As JSON it is a list with depths, which every reader can read.
        """
        done = harken(*arguments, "-F", "audit.jsonl")

        found = json.loads(done.stdout)["data"][members]
        assert list(range(1500)) == [one["depth"] for one in found]

    @pytest.mark.parametrize(
        "arguments",
        [
            ["trail", "r1", "--all"],
            ["trail", "r1", "--all", "--view", "tree"],
            ["why", "60", "--all"],
            ["why", "1441", "--all", "--effects"],
        ],
    )
    def test_on_a_terminal(
        self, on_terminal: OnTerminal, deep: Story, arguments: list[str]
    ) -> None:
        """
        Each line says what it is about, however deep that lies.
        """
        terminal = on_terminal(*arguments, "-F", "audit.jsonl", env={"PYTHONUTF8": "1"})

        assert 0 == terminal.wait()
        shown = [line for line in terminal.shown.splitlines() if "operation" in line]
        assert len(shown) in {60, 1500}


def jsonl(done: subprocess.CompletedProcess[str]) -> list[Any]:
    return [json.loads(line) for line in done.stdout.splitlines()]


class TestOtherForms:
    def test_of_runs_and_figures(self, harken: Run, story: Story) -> None:
        """
        Runs and figures come as lines of JSON and as tables, too.
        """
        asked = ("-F", "audit.jsonl", "-o")
        runs = [json.loads(line) for line in harken("runs", *asked, "jsonl").stdout.splitlines()]
        groups = [json.loads(line) for line in harken("stats", *asked, "jsonl").stdout.splitlines()]

        assert ["r1", "r2", "r3"] == [run["run_id"] for run in runs]
        assert 11 == sum(group["events"] for group in groups)
        head, *rows = csv.DictReader(StringIO(harken("runs", *asked, "csv").stdout))
        assert {
            name: "" if value is None else str(value) for name, value in runs[0].items()
        } == head
        assert ["run_id", "started", "ended", "outcome"] == list(head)[:4]
        assert 2 == len(rows)
        assert 1 == len(harken("runs", *asked, "jsonl", "-n", "1").stdout.splitlines())

    @pytest.mark.parametrize("filters", [("--outcome", "error"), ("--type", "tool.*")])
    def test_how_runs_ended(self, harken: Run, story: Story, filters: tuple[str, str]) -> None:
        """
        That is true whether the record of the end is wanted or not; what is counted, is wanted.
        """
        every = {run["run_id"]: run for run in jsonl(harken("runs", "audit.jsonl", "-o", "jsonl"))}
        wanted = jsonl(harken("runs", "audit.jsonl", *filters, "-o", "jsonl"))

        assert wanted
        for run in wanted:
            whole = every[run["run_id"]]
            assert [whole[name] for name in ("outcome", "actor", "what")] == [
                run[name] for name in ("outcome", "actor", "what")
            ]
            assert run["events"] < whole["events"]

    def test_of_several_records(self, harken: Run, story: Story) -> None:
        """
        Several records are shown one after the other; what was altered is said.
        """
        altered = story.path.read_bytes().replace(b'"reason":"no"', b'"reason":"ok"')
        story.path.write_bytes(altered)

        text = harken("show", "4", "5", "-F", "audit.jsonl", "-o", "text").stdout
        lines = harken("show", "4", "5", "-F", "audit.jsonl", "-o", "jsonl").stdout

        assert "\n\n" in text
        assert ("intact" in text, "was altered after it was sealed" in text) == (True, True)
        assert [4, 5] == [json.loads(line)["seq"] for line in lines.splitlines()]


class TestFollow:
    def test_until_ctrl_c(self, started: Start, story: Story, tmp_path: Path) -> None:
        """
        What is appended is printed; Ctrl-C ends it with 130; the cursor is where it ended.
        """
        process = started("tail", "-f", "-n", "1", "-F", "audit.jsonl", "--cursor-file", "c")
        assert process.stdout is not None
        assert 11 == json.loads(process.stdout.readline())["seq"]
        story.add("more", "text.emitted")
        with story.path.open("ab") as file:
            file.write(story.lines[-1])
        assert 12 == json.loads(process.stdout.readline())["seq"]
        # The cursor follows what was printed.
        while 12 != json.loads((tmp_path / "c").read_text())["seq"]:
            assert process.poll() is None
        process.send_signal(signal.SIGINT)

        assert 130 == process.wait(60)

    def test_table(self, started: Start, story: Story) -> None:
        """
        A table has its heading once.
        """
        process = started("tail", "-f", "-n", "1", "-F", "audit.jsonl", "-o", "csv")
        assert process.stdout is not None
        assert process.stdout.readline().startswith("timestamp,")
        assert ",11," in process.stdout.readline()
        story.add("more", "text.emitted")
        with story.path.open("ab") as file:
            file.write(story.lines[-1])

        assert ",12," in process.stdout.readline()

    def test_log_that_is_not_there_yet(self, started: Start, tmp_path: Path) -> None:
        """
        A log that is not there yet is waited for.
        """
        process = started("tail", "-f", "-F", "late.jsonl", "--since", "1h")
        assert process.stderr is not None
        assert process.stdout is not None
        assert "waiting" in process.stderr.readline()
        import time

        (tmp_path / "late.jsonl").write_bytes(Chain().line(time.time_ns()))

        assert 1 == json.loads(process.stdout.readline())["seq"]

    def test_no_envelope(self, harken: Run, story: Story) -> None:
        """
        What has no end fits into no envelope.
        """
        harken("tail", "-f", "-F", "audit.jsonl", "-o", "json", returncode=2)


class TestCursor:
    @pytest.mark.parametrize("command", ["query", "tail"])
    def test_goes_on(self, harken: Run, story: Story, command: str) -> None:
        """
        Each call prints what was appended since the one before.
        """
        arguments = (command, "-F", "audit.jsonl", "--cursor-file", "c", "--fields", "seq")
        first = harken(*arguments).stdout
        nothing = harken(*arguments).stdout
        story.add("more", "text.emitted")
        story.write()

        assert (11, "", '{"seq":12}\n') == (
            *(len(first.splitlines()), nothing),
            harken(*arguments).stdout,
        )

    @pytest.mark.parametrize("command", ["query", "tail"])
    def test_behind_the_last_record(self, harken: Run, story: Story, command: str) -> None:
        """
        What is no record is told, and gone on from the last that is one.
        """
        story.path.write_bytes(story.path.read_bytes() + DAMAGE["bytes"])
        arguments = (command, "-F", "audit.jsonl", "--cursor-file", "c", "-o", "text")
        first = harken(*arguments, returncode=3)
        story.add("more", "text.emitted")
        with story.path.open("ab") as file:
            file.write(story.lines[-1])

        then = harken(*arguments, returncode=0)

        assert (11, 1) == (len(first.stdout.splitlines()), len(first.stderr.splitlines()))
        assert ["#12"] == re.findall("#\\d+", then.stdout)


class TestAuditLog:
    def test_by_command_and_trace(self, harken: Run, story: Story) -> None:
        """
        Calls are found by the name of the command and by TOOL_TRACE_ID.
        """
        asked = ("audit-log", "-F", "audit.jsonl", "--output", "jsonl")

        (call,) = harken(*asked, "--trace-id", "test-123").stdout.splitlines()
        found = json.loads(call)
        assert ("deploy", {"env": "prod"}, 0, "user:ana", "test-123") == (
            *(found["command"], found["params"], found["exit_code"], found["operator"]),
            found["trace_id"],
        )
        assert call == harken(*asked, "--command", "dep*").stdout.strip()
        assert "" == harken(*asked, "--command", "other").stdout
        assert "" == harken(*asked, "--since", "1s").stdout

    def test_of_exec(self, harken: Run) -> None:
        """
        What `harken exec` ran is there, by the trace id that it ran with.
        """
        env = {"HARKEN_AUDIT_JSONL_PATH": "a.jsonl", "TOOL_TRACE_ID": "test-123"}
        harken("exec", "--", "true", env=env)

        done = harken("audit-log", "--since", "1h", "--trace-id", "test-123", env=env)

        assert "true" == json.loads(done.stdout)["command"]

    def test_limit(self, harken: Run, story: Story) -> None:
        """
        The last calls are printed, and it is said that there are more.
        """
        story.add("more", "command.completed", metadata={"command": "b", "args": [1]})
        story.write()

        done = harken("audit-log", "-F", "audit.jsonl", "--limit", "1")

        assert ("b", [1]) == tuple(json.loads(done.stdout)[name] for name in ("command", "params"))
        assert "more than 1 call;" in done.stderr


class TestDoctor:
    def test_all_is_well(self, harken: Run) -> None:
        """
        A log that a program just wrote is well.
        """
        env = {"HARKEN_AUDIT_JSONL_PATH": "a.jsonl"}
        harken("exec", "--", "true", env=env)

        done = harken("doctor", env=env)

        checks = {check["name"]: check for check in json.loads(done.stdout)["data"]}
        assert {"settings", "log", "permissions", "clock", "disk", "extras"} == checks.keys()
        assert not [check for check in checks.values() if check["verdict"] == "problem"]

    @pytest.mark.parametrize(
        ("trouble", "name", "word"),
        [
            ("setting", "settings", "HARKEN_LOG_FORMAT"),
            ("mode", "permissions", "chmod 600"),
            ("torn", "end", "not finished"),
            ("future", "clock", "in the future"),
            ("spilled", "spilled", "audit.jsonl.spill-x"),
            ("foreign", "log", "nothing in audit.jsonl is a record"),
            ("folder", "log", "is a folder"),
        ],
    )
    def test_troubles(
        self, harken: Run, tmp_path: Path, trouble: str, name: str, word: str
    ) -> None:
        """
        What is wrong is said, with the exit code 1.
        """
        path = tmp_path / "audit.jsonl"
        time_ns = BEGAN_NS if trouble != "future" else BEGAN_NS * 2
        path.write_bytes(Chain().line(time_ns) + (b"torn" if trouble == "torn" else b""))
        path.chmod(0o644 if trouble == "mode" else 0o600)
        env = {"HARKEN_LOG_FORMAT": "nonsense" if trouble == "setting" else "json"}
        if trouble == "spilled":
            (tmp_path / "audit.jsonl.spill-x").write_bytes(Chain().line(BEGAN_NS))
        if trouble == "foreign":
            path.write_bytes(b"foreign\n")
        if trouble == "folder":
            path.unlink()
            path.mkdir()

        done = harken("doctor", "-F", "audit.jsonl", "-o", "text", env=env, returncode=1)

        (line,) = [line for line in done.stdout.splitlines() if line.startswith(name)]
        assert "problem" in line
        assert word in line

    def test_other_log(self, harken: Run, tmp_path: Path) -> None:
        """
        That programs write elsewhere, because a file of settings says so, is a problem.
        """
        (tmp_path / "harken.toml").write_text('audit_jsonl_path = "elsewhere.jsonl"\n')
        env = {"HARKEN_CONFIG": "harken.toml", "HARKEN_AUDIT_JSONL_PATH": None}

        done = harken("doctor", "-o", "text", env=env, returncode=1)
        named = harken("doctor", "-F", "elsewhere.jsonl", "-o", "text", env=env)

        assert "programs write to elsewhere.jsonl, but this reads /" in done.stdout
        assert "programs write to elsewhere.jsonl\n" in named.stdout

    @pytest.mark.parametrize("extra", ["nats", "redis", "otlp-grpc"])
    def test_extra_that_is_missing(
        self, call: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, extra: str
    ) -> None:
        """
        An extra of a sink or a command that is not installed is named.
        """
        package = {"otlp-grpc": "opentelemetry.exporter.otlp.proto.grpc"}.get(extra, extra)
        monkeypatch.setitem(sys.modules, package, None)

        called = call("doctor", "-F", "new.jsonl", "-o", "text")

        (line,) = [line for line in called.out.splitlines() if line.startswith("extras")]
        assert extra in line.partition("not installed: ")[2].split(", ")

    def test_no_log_yet(self, harken: Run) -> None:
        """
        That there is no log yet is worth a note.
        """
        done = harken("doctor", "-F", "new/audit.jsonl", "-o", "text", env={"HARKEN_AUDIT": "off"})

        assert "there is none at new/audit.jsonl yet" in done.stdout
        assert "switched off" in done.stdout


class TestCompletion:
    @pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
    def test_script(self, harken: Run, shell: str) -> None:
        """
        There is a script for each shell.
        """
        assert "_HARKEN_COMPLETE" in harken("completion", shell).stdout

    def test_other_shell(self, harken: Run) -> None:
        """
        Another shell is refused.
        """
        harken("completion", "cmd", returncode=2)


class TestExport:
    def test_lines(self, harken: Run, story: Story, tmp_path: Path) -> None:
        """
        As jsonl it is the log itself, in a file that only its owner may read.
        """
        harken("export", "jsonl", "-F", "audit.jsonl", "-O", "out.jsonl")

        out = tmp_path / "out.jsonl"
        assert story.path.read_bytes() == out.read_bytes()
        assert 0o600 == out.stat().st_mode & 0o777
        assert ["audit.jsonl", "out.jsonl"] == sorted(os.listdir(tmp_path))

    def test_to_what_is_no_file(self, harken: Run, story: Story, tmp_path: Path) -> None:
        """
        A device or a pipe stays one, and gets what is exported.
        """
        os.mkfifo(tmp_path / "pipe")
        reader = subprocess.Popen(["cat", "pipe"], cwd=tmp_path, stdout=subprocess.PIPE, text=True)

        harken("export", "jsonl", "-F", "audit.jsonl", "-O", "pipe")

        assert story.path.read_text() == reader.communicate(timeout=60)[0]
        assert (tmp_path / "pipe").is_fifo()

    def test_through_a_link(self, harken: Run, story: Story, tmp_path: Path) -> None:
        """
        A link stays one; what it leads to is written.
        """
        (tmp_path / "link").symlink_to("real.csv")

        harken("export", "csv", "-F", "audit.jsonl", "-O", "link")

        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "real.csv").read_text().startswith("timestamp,")

    def test_over_the_log(self, harken: Run, story: Story) -> None:
        """
        The log itself is not written over.
        """
        before = story.path.read_bytes()

        for form in ("jsonl", "html"):
            harken("export", form, "-F", "audit.jsonl", "-O", "audit.jsonl", returncode=2)

        assert before == story.path.read_bytes()

    def test_part(self, harken: Run, story: Story) -> None:
        """
        Filters say what is exported.
        """
        done = harken("export", "csv", "-F", "audit.jsonl", "--run", "r2", "--fields", "seq")

        assert "seq\n8\n9\n" == done.stdout

    def test_otlp(self, harken: Run, story: Story) -> None:
        """
        As OTLP it is what a collector reads: requests with spans.
        """
        done = harken("export", "otlp", "audit.jsonl")

        (request,) = map(json.loads, done.stdout.splitlines())
        assert 6 == len(request["resourceSpans"][0]["scopeSpans"][0]["spans"])

    def test_log_named_twice(self, harken: Run, story: Story) -> None:
        """
        The log is named once.
        """
        harken("export", "csv", "audit.jsonl", "-F", "audit.jsonl", returncode=2)
