"""
`harken demo`: real work, four files, one story.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tomllib
import urllib.request
from collections import Counter
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from harken import Bus, describe, find
from harken.catalog import AgentStarted
from harken.cli import COMMANDS
from harken.cli._books import secret_of
from harken.cli._summary import Outputs, chain_verdict, obstacle, show_files

pytestmark = pytest.mark.once

Run = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[..., subprocess.Popen[str]]
Lines = list[dict[str, Any]]

FILES = ["audit.jsonl", "events.log", "metrics.prom", "spans.jsonl"]
OPEN_METRICS = {"Accept": "application/openmetrics-text; version=1.0.0"}
PUBLISHERS = Path(__file__).parents[1] / "catalog" / "publishers.toml"


class Demo:
    """
    A demo that was run: what it said, and what is in its files.
    """

    def __init__(self, folder: Path, shown: str) -> None:
        self.folder = folder
        self.shown = shown
        self.audit = lines_of(folder / "audit.jsonl")
        self.log = lines_of(folder / "events.log")
        self.spans = lines_of(folder / "spans.jsonl")
        self.metrics = (folder / "metrics.prom").read_text(encoding="utf-8")

    def events(self, *names: str) -> Lines:
        """
        Return the log lines of events with these names.
        """
        return [line for line in self.log if line["event_name"] in names]


def lines_of(path: Path) -> Lines:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def run_demo(folder: Path, *args: str) -> Demo:
    done = subprocess.run(
        [sys.executable, "-m", "harken", "demo", "--out", "out", *args],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (0, "") == (done.returncode, done.stderr)
    return Demo(folder / "out", done.stdout)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """
    The demo as a new user runs it, with no option but where its files go.
    """
    return run_demo(tmp_path_factory.mktemp("demo"))


def ids(line: dict[str, Any]) -> tuple[str, str]:
    return line["trace_id"], line["span_id"]


class TestFiles:
    def test_are_four(self, demo: Demo) -> None:
        """
        The demo leaves four files, and nothing else.
        """
        assert FILES == sorted(path.name for path in demo.folder.iterdir())

    def test_go_to_a_folder_of_their_own(self, harken: Run, tmp_path: Path) -> None:
        """
        Without an option they are in `harken-demo`, and no scratch file is left anywhere.
        """
        (tmp_path / "scratch").mkdir()

        harken("demo", "--runs", "1", env={"TMPDIR": str(tmp_path / "scratch")})

        assert FILES == sorted(path.name for path in (tmp_path / "harken-demo").iterdir())
        assert [] == list((tmp_path / "scratch").iterdir())

    def test_name_a_tool_call_by_the_same_ids(self, demo: Demo) -> None:
        """
        A tool call has the same trace id and span id in the audit log, in the log and as a span.
        """
        audited = {ids(line) for line in demo.audit if line["event_type"] == "tool.started"}
        logged = {ids(line) for line in demo.events("tool.started")}
        spans = {
            ids(span)
            for span in demo.spans
            if span["attributes"]["harken.operation"] == "tool.started"
        }

        assert 16 == len(audited)
        assert audited == logged == spans

    def test_are_added_to(self, tmp_path: Path) -> None:
        """
        A second demo in the same folder goes on with the same audit log, and its chain holds.
        """
        first = run_demo(tmp_path, "--runs", "1")
        second = run_demo(tmp_path, "--runs", "1")

        added = len(second.audit) - len(first.audit)
        assert first.audit == second.audit[: len(first.audit)]
        assert f"{added} more, {len(second.audit)} records, chain intact\n" in second.shown
        assert links_of(second.folder / "audit.jsonl") == len(second.audit)

    def test_hold_no_secret(self, demo: Demo) -> None:
        """
        The credential's secret went to a tool and to a program, and is in none of the files.
        """
        calls = [
            line["metadata"]["arguments"]
            for line in demo.audit
            if line["resource"] == "tool:open_pull_request" and line["event_type"] == "tool.started"
        ]

        assert 2 * ["[REDACTED:key]"] == [arguments["token"] for arguments in calls]
        assert [] == [
            path.name for path in demo.folder.iterdir() if secret_of(0) in path.read_text()
        ]
        assert ["pull_request:write"] == [
            line["metadata"]["scope"]
            for line in demo.audit
            if line["event_type"] == "credential.issued"
        ]

    def test_tell_of_no_chunk(self, demo: Demo) -> None:
        """
        The pieces of an answer are recorded nowhere, its blocks are.
        """
        assert [] == demo.events("llm.chunk")
        assert not [line for line in demo.audit if line["event_type"] == "llm.chunk"]
        assert not [span for span in demo.spans if "llm.chunk" in json.dumps(span)]
        assert (2, 5) == (
            len(demo.events("thinking.emitted")),
            len(demo.events("text.emitted")),
        )


def links_of(path: Path) -> int:
    """
    Follow the chain of an audit log by its definition; return how many records it has.
    """
    before, number = "0" * 64, 0
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        content, found = line[:-75], json.loads(line)
        assert (number, before) == (found["seq"], found["prev"])
        before = sha256(content).hexdigest()
        assert before == found["hash"]
    return number


class TestStory:
    def test_publishes_what_the_catalog_says_it_does(self, demo: Demo) -> None:
        """
        Every type that is listed as the demo's is published by it.
        """
        listed = tomllib.loads(PUBLISHERS.read_text(encoding="utf-8"))["demo"]
        published = {line["event_name"] for line in demo.log}

        assert [] == [name for name in listed if name not in published]

    def test_ends_every_operation_once(self, demo: Demo) -> None:
        """
        Everything that was started has exactly one end.
        """
        starts = Counter(
            line["span_id"] for line in demo.log if describe(find(line["event_name"])).is_start
        )
        ends = Counter(
            line["span_id"] for line in demo.log if describe(find(line["event_name"])).is_terminal
        )

        assert set(starts.values()) == {1}
        assert starts == ends
        assert len(demo.spans) == len(starts)

    def test_has_every_outcome(self, demo: Demo) -> None:
        """
        A tool succeeds, fails, is denied, runs out of time, and is cancelled.
        """
        ends = demo.events("tool.completed", "tool.failed", "tool.denied")

        assert {"success": 9, "failure": 2, "denied": 1, "timeout": 1, "cancelled": 3} == Counter(
            line["outcome"] for line in ends
        )

    def test_has_runs_that_end_in_three_ways(self, demo: Demo) -> None:
        """
        One run succeeds, one is cancelled, and one fails.
        """
        ends = demo.events("run.completed", "run.cancelled", "run.failed")

        assert ["success", "cancelled", "failure"] == [line["outcome"] for line in ends]

    def test_cancels_a_run_in_the_middle(self, demo: Demo) -> None:
        """
        The run that is cancelled and its three parallel tools have one end each, and all are
        cancelled.
        """
        (cancelled,) = demo.events("run.cancelled")
        story = [line for line in demo.audit if line.get("run_id") == cancelled["run_id"]]

        assert ["run.started", *3 * ["tool.started"], *3 * ["tool.failed"], "run.cancelled"] == [
            line["event_type"] for line in story
        ]
        assert 4 * [None] + 4 * ["cancelled"] == [line["outcome"] for line in story]
        assert "user:ana" == story[-1]["metadata"]["cancelled_by"]

    def test_calls_tools_in_parallel(self, demo: Demo) -> None:
        """
        Tools that run at the same time stay in their turn, their run and their trace.
        """
        turns = [line["span_id"] for line in demo.events("turn.started")]
        run = demo.events("run.started")[0]
        at_once = [
            line
            for line in demo.events("tool.started")
            if line["run_id"] == run["run_id"]
            and line["data"]["tool_name"] in ("read_file", "search")
        ][:3]
        parents = {s["span_id"]: s["parent_id"] for s in demo.spans}

        assert {run["trace_id"]} == {line["trace_id"] for line in at_once}
        (turn,) = {parents[line["span_id"]] for line in at_once}
        assert turn in turns

    def test_denies_by_policy(self, demo: Demo) -> None:
        """
        The denied call was refused by a policy, and the policy names the call.
        """
        (denied,) = [line for line in demo.audit if line["event_type"] == "tool.denied"]
        (ruling,) = [
            line["metadata"]
            for line in demo.audit
            if line["event_type"] == "policy.evaluated" and line["outcome"] == "denied"
        ]

        assert ("keep-the-books", denied["metadata"]["tool_call_id"]) == (
            denied["metadata"]["rule"],
            ruling["subject"],
        )

    def test_adds_up(self, demo: Demo) -> None:
        """
        A run's tokens and costs are those of its model calls.
        """
        for end in demo.events("run.completed", "run.failed"):
            calls = [
                line["data"]
                for line in demo.events("llm.completed")
                if line["run_id"] == end["run_id"]
            ]
            used = {
                name: sum(call[name] for call in calls)
                for name in ("input_tokens", "output_tokens", "reasoning_tokens")
            }
            assert used.items() <= end["data"].items()
            assert pytest.approx(sum(call["cost_usd"] for call in calls)) == end["data"]["cost_usd"]
            assert sum(used.values()) > 1000 or end["outcome"] == "failure"

    def test_is_asked_and_answered_by_a_person(self, demo: Demo) -> None:
        """
        An approval was requested by the agent and granted by a person, who is on record.
        """
        asked, granted = demo.events("approval.requested", "approval.granted")

        assert asked["data"]["approval_id"] == granted["data"]["approval_id"]
        assert ("agent:bookkeeper", "user:ana") == (asked["actor"], granted["actor"])

    def test_repairs_what_was_wrong(self, demo: Demo) -> None:
        """
        The work is real: the check failed on the files as they were, and passes on the repaired.
        """
        modified = demo.events("resource.modified")[0]["data"]

        assert ["validation.failed", "validation.passed"] == [
            line["event_name"] for line in demo.events("validation.failed", "validation.passed")
        ]
        assert modified["digest_before"] != modified["digest_after"]

    def test_goes_through_phases(self, demo: Demo) -> None:
        """
        Every record of a run says in which phase it was.
        """
        run = demo.events("run.completed")[0]
        phases = [line.get("phase") for line in demo.audit if line.get("run_id") == run["run_id"]]

        assert {"analysis", "execution", "verification"} == set(phases)

    def test_is_the_same_every_time(self, demo: Demo, tmp_path: Path) -> None:
        """
        What happens, how it ends and what it costs does not depend on the day.
        """

        def told(one: Demo) -> Counter[tuple[str, str | None]]:
            return Counter((line["event_name"], line.get("outcome")) for line in one.log)

        def costs(one: Demo) -> list[float]:
            return [line["data"]["cost_usd"] for line in one.events("llm.completed")]

        again = run_demo(tmp_path)

        assert (told(demo), costs(demo)) == (told(again), costs(again))

    def test_goes_on(self, tmp_path: Path) -> None:
        """
        With more runs, the same three ways to end come again, in traces of their own.
        """
        more = run_demo(tmp_path, "--runs", "4")

        ends = more.events("run.completed", "run.cancelled", "run.failed")
        assert ["success", "cancelled", "failure", "success"] == [line["outcome"] for line in ends]
        assert 4 == len({line["trace_id"] for line in ends})
        assert "4 runs in " in more.shown


def sought(shown: str) -> list[Path]:
    """
    Return the files in which the demo says that the failed call is found.
    """
    (line,) = [line for line in shown.splitlines() if line.startswith("  grep -h ")]
    return [Path(word) for word in shlex.split(line)[3:]]


class TestTrace:
    """
    A trace may come in from whoever calls the demo.
    """

    @pytest.mark.parametrize("flags", ["00", "01"])
    def test_goes_on_and_is_recorded(self, harken: Run, tmp_path: Path, flags: str) -> None:
        """
        The spans of the demo are there to be looked at, also where the caller records none.
        """
        trace_id = "0af7651916cd43dd8448eb211c80319c"
        env = {"TRACEPARENT": f"00-{trace_id}-b7ad6b7169203331-{flags}", "TRACESTATE": "x=1"}

        harken("demo", "--runs", "1", env=env)

        folder = tmp_path / "harken-demo"
        audited = [line for line in lines_of(folder / "audit.jsonl") if line["trace_id"]]
        spans = lines_of(folder / "spans.jsonl")
        assert len(spans) > 30
        assert {trace_id} == {line["trace_id"] for line in [*audited, *spans]}
        assert "b7ad6b7169203331" in {span["parent_id"] for span in spans}


class TestSummary:
    def test_counts_what_is_in_the_files(self, demo: Demo) -> None:
        """
        The numbers that are told are those of the files.
        """
        series = [line for line in demo.metrics.splitlines() if not line.startswith("#")]

        said = " ".join(demo.shown.split())
        assert f"audit.jsonl {len(demo.audit)} records, chain intact" in said
        assert f"metrics.prom {len(series)} series" in said
        assert f"events.log {len(demo.log)} lines" in said
        assert f"spans.jsonl {len(demo.spans)} spans" in said
        assert "3 runs in " in said
        assert "(1 success, 1 cancelled, 1 failure)" in said

    def test_draws_one_run(self, demo: Demo) -> None:
        """
        The tree shows each operation of the first run below the one that it is a part of.
        """
        drawn = [re.sub(r" {2,}\d+ ms$", "", line) for line in demo.shown.splitlines()]
        start = next(n for n, line in enumerate(drawn) if line.startswith("├─ turn 3"))

        assert [
            ("├─ turn 3", "success"),
            ("│  ├─ model scripted-1", "success"),
            ("│  └─ plan", "success"),
            ("│     ├─ step 1", "success"),
            ("│     │  └─ tool write_file", "success"),
            ("│     │     └─ approval.granted", "user:ana"),
            ("│     ├─ step 2", "success"),
            ("│     │  └─ validation billing/total.py", "success"),
            ("│     │     └─ tool run_command", "success"),
            ("│     │        └─ command", "success"),
            ("│     └─ step 3", "success"),
            ("│        ├─ tool run_command", "timeout"),
            ("│        │  └─ command", "timeout"),
            ("│        └─ tool run_command", "denied"),
        ] == [
            (
                re.sub(
                    r"(plan|command) \S+$",
                    r"\1",
                    " ".join(line.split(" ")).rsplit("  ", 1)[0].rstrip(),
                ),
                line.split()[-1],
            )
            for line in drawn[start : start + 14]
        ]

    def test_names_only_what_exists(self, demo: Demo, harken: Run) -> None:
        """
        Every command that is suggested can be run.
        """
        suggested = [
            shlex.split(line)
            for line in demo.shown.partition("Try next:\n")[2].splitlines()
            if line[2] != " "
        ]

        assert ["grep", *["harken"] * 4] == [words[0] for words in suggested]
        assert {words[1] for words in suggested[1:]} <= COMMANDS.keys()
        found = subprocess.run(
            suggested[0], cwd=demo.folder.parent, capture_output=True, text=True, check=True
        )
        assert {"audit.jsonl", "events.log", "spans.jsonl"} == {
            Path(word).name for word in suggested[0][3:]
        }
        assert 5 <= len(found.stdout.splitlines())
        assert "verify" == suggested[1][1]
        for words in suggested[1:3]:
            harken(*(str(demo.folder.parent / word) if "/" in word else word for word in words[1:]))

    def test_is_plain_off_a_terminal(self, demo: Demo) -> None:
        """
        A file or a pipe gets no control characters and no progress.
        """
        assert all(line.isprintable() for line in demo.shown.splitlines())

    def test_in_ascii(self, harken: Run) -> None:
        """
        Where there are no lines to draw with, the tree is drawn without.
        """
        shown = harken("demo", "--runs", "1", env={"PYTHONIOENCODING": "ascii"}).stdout

        assert "\n|- turn 1 " in shown
        assert "\n`- turn 5 " in shown
        assert shown.isascii()
        assert "\\u" not in shown

    def test_without_spans(self, harken: Run, tmp_path: Path) -> None:
        """
        Where tracing is switched off for everything, the demo says that there are no spans.
        """
        done = harken("demo", "--runs", "1", env={"OTEL_SDK_DISABLED": "true"})

        assert "  spans.jsonl   no spans, as OTEL_SDK_DISABLED is true\n" in done.stdout
        assert not (tmp_path / "harken-demo" / "spans.jsonl").exists()
        assert ["audit.jsonl", "events.log"] == [path.name for path in sought(done.stdout)]
        assert "the tool call that failed, in 2 files\n" in done.stdout

    @pytest.mark.parametrize(
        ("settings", "said"),
        [
            ({"HARKEN_AUDIT_TYPES": "*=off"}, "the tool call that failed, in 2 files\n"),
            (
                {"HARKEN_AUDIT_TYPES": "*=off", "OTEL_SDK_DISABLED": "true"},
                "the tool call that failed, on the record\n",
            ),
            (
                {
                    "HARKEN_AUDIT_TYPES": "*=off",
                    "OTEL_SDK_DISABLED": "true",
                    "HARKEN_LOG_LEVELS": "*=off",
                },
                "Try next:\n  harken catalog tool.failed\n",
            ),
        ],
        ids=len,
    )
    def test_without_the_failed_call(
        self, harken: Run, settings: dict[str, str], said: str
    ) -> None:
        """
        What the settings keep out of a file is not said to be in it.
        """
        assert said in harken("demo", "--runs", "1", env=settings).stdout

    def test_with_files_of_limited_size(self, harken: Run) -> None:
        """
        When the audit log begins a new file, what is in that one is counted.
        """
        harken("demo", "--runs", "1")

        shown = harken("demo", "--runs", "1", env={"HARKEN_AUDIT_MAX_BYTES": "20000"}).stdout

        assert re.search(r"  audit\.jsonl   \d+ records, chain intact\n", shown)

    def test_tells_of_a_broken_chain(self, demo: Demo, tmp_path: Path) -> None:
        """
        An audit log that somebody edited is told of, with the line.
        """
        lines = (demo.folder / "audit.jsonl").read_bytes().splitlines(keepends=True)
        edited, shortened = tmp_path / "edited.jsonl", tmp_path / "shortened.jsonl"
        edited.write_bytes(
            b"".join([*lines[:4], lines[4].replace(b"agent:", b"user::"), *lines[5:]])
        )
        shortened.write_bytes(b"".join([*lines[:7], *lines[8:]]))

        assert "chain intact" == chain_verdict(demo.folder / "audit.jsonl")
        assert chain_verdict(edited).startswith("chain broken at line 5: ")
        assert chain_verdict(shortened).startswith("chain broken at line 8: ")

    def test_tells_of_a_sink_that_failed(
        self, demo: Demo, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """
        What a sink missed is not kept from the reader.
        """

        class Broken:
            name = "broken"
            delivery = "inline"

            def write(self, batch: object, /) -> None:
                raise OSError("disk\x1b full")

        bus = Bus()
        bus.attach(Broken())
        bus.publish(AgentStarted(agent_id="a-1"))

        show_files(Outputs(demo.folder), bus.health())

        shown = capsys.readouterr().out
        lost = re.escape("events lost; OSError: disk\\x1b full")
        assert re.search(rf"  broken: \d failures, \d {lost}\n", shown)


class TestTerminal:
    def test_shows_progress(self, on_terminal: Callable[..., Any]) -> None:
        """
        On a terminal, what is going on is shown while it goes on, and the summary is coloured.
        """
        terminal = on_terminal("demo")

        assert 0 == terminal.wait()
        progress, summary = terminal.shown.split("3 runs in ")
        assert re.search(r"run 1 of 3: [a-z]+:", progress)
        assert "\x1b[32msuccess" in summary

    @pytest.mark.parametrize(("columns", "timed"), [(80, True), (52, True), (40, False)])
    def test_is_not_left(self, on_terminal: Callable[..., Any], columns: int, timed: bool) -> None:
        """
        Where the terminal is narrow, the tree is, too.
        """
        terminal = on_terminal("demo", "--runs", "1", env={"NO_COLOR": "1"}, columns=columns)

        assert 0 == terminal.wait()
        tree = (
            terminal.shown.partition("first of them:")[2].partition("Written to")[0].split("\r\n")
        )
        assert max(map(len, tree)) <= columns
        assert timed == any(line.endswith(" ms") for line in tree)
        assert (columns < 80) == any("…" in line for line in tree)

    def test_without_colours(self, on_terminal: Callable[..., Any]) -> None:
        """
        With `NO_COLOR`, progress and summary are without colours.
        """
        terminal = on_terminal("demo", "--runs", "1", env={"NO_COLOR": "1"})

        assert 0 == terminal.wait()
        assert "run 1 of 1: " in terminal.shown
        assert not re.search(r"\x1b\[[0-9;]*m", terminal.shown)


class TestServe:
    @pytest.fixture
    def served(self, started: Start) -> tuple[subprocess.Popen[str], str, str]:
        """
        A demo that has ended and still serves: its process, what it said, and the address.
        """
        process = started("demo", "--serve", "0")
        assert process.stdout is not None
        shown = ""
        while "until Ctrl-C" not in shown:
            line = process.stdout.readline()
            assert line, shown
            shown += line
        (url,) = set(re.findall(r"http://127\.0\.0\.1:\d+/metrics", shown))
        return process, shown, url

    def test_serves_exemplars_of_the_same_calls(
        self, served: tuple[subprocess.Popen[str], str, str], tmp_path: Path
    ) -> None:
        """
        An exemplar from `/metrics` names a tool call by the ids that the other files have.
        """
        _, _, url = served

        with urllib.request.urlopen(urllib.request.Request(url, headers=OPEN_METRICS)) as answer:
            metrics = answer.read().decode()

        exemplars = {
            (trace_id, span_id)
            for tool, span_id, trace_id in re.findall(
                r'tool_call_duration_seconds_bucket\{.*tool="(\w+)"\} .* # '
                r'\{span_id="(\w+)",trace_id="(\w+)"\}',
                metrics,
            )
            if tool
        }
        folder = tmp_path / "harken-demo"
        audited = {ids(line) for line in lines_of(folder / "audit.jsonl")[:] if line["trace_id"]}
        logged = {ids(line) for line in lines_of(folder / "events.log")}
        spans = {ids(line) for line in lines_of(folder / "spans.jsonl")}
        assert len(exemplars) > 5
        assert exemplars <= audited & logged & spans

    def test_ends_with_ctrl_c(self, served: tuple[subprocess.Popen[str], str, str]) -> None:
        """
        Ctrl-C is how it is meant to end: quietly, and with success.
        """
        process, shown, _ = served

        process.send_signal(signal.SIGINT)

        _, complaints = process.communicate(timeout=60)
        assert (0, "") == (process.returncode, complaints)
        assert shown.startswith("Serving http://127.0.0.1:")

    def test_ends_with_sigterm(
        self, served: tuple[subprocess.Popen[str], str, str], tmp_path: Path
    ) -> None:
        """
        A service manager that stops it leaves a complete audit log.
        """
        process, _, _ = served

        process.terminate()

        assert 143 == process.wait(timeout=60)
        assert "audit.close" == lines_of(tmp_path / "harken-demo" / "audit.jsonl")[-1]["event_type"]

    def test_on_a_port_in_use(self, harken: Run) -> None:
        """
        A port that somebody else has is one sentence.
        """
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            done = harken("demo", "--serve", str(port), returncode=1)

        (line,) = done.stderr.splitlines()
        assert f"port {port}" in line
        assert "" == done.stdout

    def test_does_it_all_again(self, started: Start, tmp_path: Path) -> None:
        """
        With `--every` the metrics never come to rest, and Ctrl-C still ends it quietly, with
        every operation ended once and one whole chain.
        """
        process = started("demo", "--serve", "0", "--every", "0")
        events = tmp_path / "harken-demo" / "events.log"
        while not (
            events.exists() and events.read_bytes().count(b'"event_name":"session.ended"') > 1
        ):
            assert process.poll() is None

        process.send_signal(signal.SIGINT)
        shown, complaints = process.communicate(timeout=60)

        starts = Counter[str]()
        ends = Counter[str]()
        for line in lines_of(events):
            info = describe(find(line["event_name"]))
            starts[line["span_id"]] += info.is_start
            ends[line["span_id"]] += info.is_terminal
        assert (0, "") == (process.returncode, complaints)
        assert "3 runs in " in shown
        assert +starts == +ends
        assert links_of(tmp_path / "harken-demo" / "audit.jsonl") > 150

    def test_not_again_without_serving(self, harken: Run) -> None:
        """
        Nobody could stop or see what goes on and on without a server: that is a mistake.
        """
        done = harken("demo", "--every", "1", returncode=2)

        assert "--every needs --serve" in done.stderr


class TestOtlp:
    def test_sends_the_spans_of_the_file(self, harken: Run, tmp_path: Path) -> None:
        """
        With `--otlp` a collector gets the very spans that are in the file.
        """
        otlp_receiver = pytest.importorskip("tests.otlp_receiver", reason="needs harken[otlp]")

        with otlp_receiver.receiving() as receiver:
            done = harken("demo", "--otlp", env={"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url})

        sent = {(span.trace_id.hex(), span.span_id.hex(), span.name) for span in receiver.spans}
        spans = lines_of(tmp_path / "harken-demo" / "spans.jsonl")
        assert "" == done.stderr
        assert {(*ids(span), span["name"]) for span in spans} == sent


# A Ctrl-C that comes while the demo starts the thread in which its agent works.
INTERRUPTED_AT_A_START = """
import signal, sys, threading

from harken.cli import main
from harken.cli._agent import Agent

work, start = Agent.work, threading.Thread.start
at_work, times = threading.Event(), 0


def work_and_say_so(agent, runs):
    at_work.set()
    work(agent, runs)


def start_and_be_interrupted(thread):
    global times
    start(thread)
    if threading.current_thread() is threading.main_thread() and at_work.wait(0.5):
        at_work.clear()
        times += 1
        if times == int(sys.argv[1]):
            signal.raise_signal(signal.SIGINT)


Agent.work = work_and_say_so
threading.Thread.start = start_and_be_interrupted
main(["demo", "--out", "demo", "--runs", "2", "--serve", "0", "--every", "0"], prog_name="harken")
"""


class TestInterrupted:
    @pytest.mark.parametrize(("time", "code"), [("1", 130), ("2", 0)])
    def test_while_the_agent_starts(
        self, run_python: Run, tmp_path: Path, time: str, code: int
    ) -> None:
        """
        Ctrl-C at the very moment when the agent begins to work stops it all the same.
        """
        done = run_python(INTERRUPTED_AT_A_START, time, returncode=code)

        sessions = [
            line["outcome"]
            for line in lines_of(tmp_path / "demo" / "audit.jsonl")
            if line["event_type"] == "session.ended"
        ]
        assert "" == done.stderr.strip()
        assert ["success"] * (int(time) - 1) + ["cancelled"] == sessions

    @pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    def test_ends_what_it_began(
        self, started: Start, tmp_path: Path, number: signal.Signals, code: int
    ) -> None:
        """
        A demo that is stopped half-way ends every operation as cancelled, exactly once, and
        cleans up.
        """
        (tmp_path / "scratch").mkdir()
        process = started("demo", "--runs", "500", env={"TMPDIR": str(tmp_path / "scratch")})
        audit = tmp_path / "harken-demo" / "audit.jsonl"
        while not (audit.exists() and audit.read_bytes().count(b'"run.started"') > 2):
            assert process.poll() is None

        process.send_signal(number)
        _, complaints = process.communicate(timeout=60)

        starts = Counter[str]()
        ends = Counter[str]()
        for line in lines_of(tmp_path / "harken-demo" / "events.log"):
            info = describe(find(line["event_name"]))
            starts[line["span_id"]] += info.is_start
            ends[line["span_id"]] += info.is_terminal
        assert (code, "") == (process.returncode, complaints.strip())
        assert +starts == +ends
        assert {1} == set((+ends).values())
        (session,) = [line for line in lines_of(audit) if line["event_type"] == "session.ended"]
        assert "cancelled" == session["outcome"]
        assert [] == list((tmp_path / "scratch").iterdir())


class TestOut:
    def test_that_cannot_be_made(self, harken: Run) -> None:
        """
        A folder that cannot be made is one sentence that says what to do.
        """
        done = harken("demo", "--out", "/dev/null/demo", returncode=4)

        (line,) = done.stderr.splitlines()
        assert line.startswith("Error: cannot write to /dev/null/demo: ")
        assert line.endswith("choose another --out")

    @pytest.mark.parametrize("name", FILES)
    def test_that_has_a_folder_in_the_way(self, harken: Run, tmp_path: Path, name: str) -> None:
        """
        A folder where a file is to be is one sentence that says what to do, and nothing is done.
        """
        (tmp_path / "out" / name).mkdir(parents=True)

        done = harken("demo", "--out", "out", returncode=4)

        assert "" == done.stdout
        assert (
            f"Error: out/{name} is a folder; move it away or choose another --out\n"
        ) == done.stderr
        assert [name] == [path.name for path in (tmp_path / "out").iterdir()]

    def test_that_has_a_pipe_in_the_way(self, harken: Run, tmp_path: Path) -> None:
        """
        A named pipe, which would be waited for without end, is one sentence.
        """
        (tmp_path / "out").mkdir()
        os.mkfifo(tmp_path / "out" / "events.log")

        done = harken("demo", "--out", "out", returncode=4)

        assert (
            "Error: out/events.log is no regular file; move it away or choose another --out\n"
        ) == done.stderr

    def test_that_has_the_files_of_another_user(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        A file that this user may not write is told of before anything runs.
        """
        (tmp_path / "spans.jsonl").touch()
        # The user who runs the tests may be one who may do everything.
        monkeypatch.setattr(os, "access", lambda path, mode: False)

        assert (
            f"{tmp_path}/spans.jsonl is not yours to read and write; "
            "move it away or choose another --out"
        ) == obstacle(tmp_path)

    def test_that_is_a_file(self, harken: Run, tmp_path: Path) -> None:
        """
        A file in its place is wrong usage.
        """
        (tmp_path / "out").write_text("mine")

        done = harken("demo", "--out", "out", returncode=2)

        assert "is a file" in done.stderr
        assert "mine" == (tmp_path / "out").read_text()
