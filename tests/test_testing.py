"""
The kit for tests of code on a bus.
"""

from __future__ import annotations

import re
import subprocess
import textwrap
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from harken import Bus, Event
from harken.catalog import PrCreated, RunStarted, ToolStarted
from harken.testing import (
    START,
    Captured,
    FixedClock,
    assert_published,
    capture,
    fixed_bus,
    snapshot,
)


def test_fixed_clock() -> None:
    """
    Time passes when it is told to; only the wall clock steps back.
    """
    bus = fixed_bus()
    clock = FixedClock()
    with capture(bus) as heard:
        bus.publish(PrCreated(url="u"))
    clock.advance(2.5)
    forward = clock.monotonic_ns()
    clock.advance(-1)

    assert START == heard.envelopes[0].time
    assert (forward, int(1.5e9)) == (
        clock.monotonic_ns(),
        clock.time_ns() - int(START.timestamp()) * 10**9,
    )


def test_fixed_ids() -> None:
    """
    Ids can be written down.
    """
    bus = fixed_bus()
    with capture(bus) as heard, bus.operation(ToolStarted(tool_name="a")):
        pass

    start, end = heard.envelopes
    assert "019b7ca9-8c88-7000-9e38-7bbc834f821c" == start.id
    assert ("a64083c48b578a24", start.span_id) == (start.span_id, end.span_id)
    assert START + timedelta(0) == end.time


def test_pytest_fixtures(
    tmp_path: Path, run_python: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """
    Whoever installs harken has its fixtures in pytest.
    """
    (tmp_path / "test_agent.py").write_text(
        textwrap.dedent("""
            from harken.catalog import PrCreated

            def test_agent(harken_bus, captured):
                harken_bus.publish(PrCreated(url="u"))
                assert captured.names == ["pr.created"]
        """)
    )
    code = "import pytest, sys; sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', '.']))"

    assert "1 passed" in run_python(code).stdout


class TestAssertPublished:
    """
    What was published, found by its type and by what it says.
    """

    @pytest.fixture
    def heard(self) -> Captured:
        bus = fixed_bus()
        with capture(bus) as heard:
            for number in (7, 8):
                bus.publish(PrCreated(url=f"/pull/{number}"))
        return heard

    def test_what_is_there(self, heard: Captured) -> None:
        """
        All that fit are returned, in order, with their envelopes.
        """
        assert heard.envelopes == assert_published(heard, PrCreated, outcome="success", count=2)
        assert heard.envelopes[1:] == assert_published(heard, PrCreated, url="/pull/8")
        assert [] == assert_published(heard, ToolStarted, count=0)

    @pytest.mark.parametrize(
        ("event_type", "expected", "message"),
        [
            (ToolStarted, {}, "ToolStarted was not published, but ['pr.created', 'pr.created']"),
            (PrCreated, {"url": "/9"}, "with {'url': '/9'} was not published, but [{'url': '/pull"),
            (PrCreated, {"count": 1}, "PrCreated was published 2 times, not 1 times"),
        ],
    )
    def test_what_is_not(
        self, heard: Captured, event_type: type[Event], expected: dict[str, Any], message: str
    ) -> None:
        """
        The error says what was published instead.
        """
        with pytest.raises(AssertionError, match=re.escape(message)):
            assert_published(heard, event_type, **expected)

    def test_in_silence(self) -> None:
        """
        Where nothing was published, the error says so.
        """
        with pytest.raises(AssertionError, match="Event was not published, but nothing"):
            assert_published(Captured(), Event)


def test_snapshot() -> None:
    """
    A run as text is the same for each run that does the same.
    """

    def run() -> str:
        bus = Bus()
        with capture(bus) as heard, bus.operation(RunStarted(model="m")):
            with bus.operation(ToolStarted(tool_name="search", arguments={"token": "x"})) as call:
                bus.publish(PrCreated(url="/pull/7"))
                call.deny("no")
            bus.operation(ToolStarted(tool_name="read", tool_call_id="c-1")).start()
            bus.close()
        return snapshot(heard)

    assert run() == run()
    lines = [line.partition(" {")[0] for line in run().splitlines()]
    assert [
        "run.started",
        "  tool.started",
        "    pr.created success",
        "  tool.denied denied",
        "  tool.started",
        "  tool.failed orphaned",
        "run.failed orphaned",
    ] == lines
    assert ('"token": "[REDACTED:key]"' in run(), '"tool_call_id": "#2"' in run()) == (True, True)


class TestSteps:
    """
    What Behave says, with harken's steps, of an agent that publishes two events.
    """

    STEPS = """
        import harken.testing.behave
        from behave import when
        from harken.catalog import PrCreated, ToolStarted

        @when("the agent works")
        def works(context):
            context.bus.publish(PrCreated(url="/pull/7"))
            context.bus.publish(ToolStarted(tool_name="search", tool_call_id="c-1"))
    """
    ENVIRONMENT = """
        from harken import Bus
        from harken.catalog import ToolStarted
        from harken.testing.behave import listen

        def before_scenario(context, scenario):
            bus = Bus()

            def call_tool(name, arguments):
                with bus.operation(ToolStarted(tool_name=name, arguments=arguments)) as call:
                    if name == "drop":
                        call.deny("read-only")
                    if name == "break":
                        raise ValueError("broken")

            listen(context, bus, call_tool)
    """

    @pytest.fixture
    def behave(
        self, tmp_path: Path, run_python: Callable[..., subprocess.CompletedProcess[str]]
    ) -> Callable[..., str]:
        """
        A function that runs *steps* after the agent has worked, and returns what Behave prints.
        """
        folder = tmp_path / "features"
        (folder / "steps").mkdir(parents=True)
        (folder / "steps" / "agent_steps.py").write_text(textwrap.dedent(self.STEPS))
        (folder / "environment.py").write_text(textwrap.dedent(self.ENVIRONMENT))

        def run(*steps: str, passes: bool) -> str:
            lines = ["Feature: F", "Scenario: S", "When the agent works", *steps]
            (folder / "agent.feature").write_text("\n".join(lines))
            code = "import sys; from behave.__main__ import main; sys.exit(main(['--no-color']))"
            return str(run_python(code, returncode=0 if passes else 1).stdout)

        return run

    @pytest.mark.parametrize(
        "steps",
        [
            ['Then "pr.created" was published', "| url | /pull/7 |", "| outcome | success |"],
            ['Then "pr.created" was published 1 times', 'And "tool.failed" was not published'],
            ["Then these events were published", "| name |", "| pr.created |", "| tool.started |"],
            [
                'When the agent calls the tool "drop"',
                "| table | invoices |",
                "Then an audit record says it was denied",
                "| resource | tool:drop |",
                "| metadata.reason | read-only |",
                "| metadata.nothing.here | null |",
            ],
            ['When the agent calls the tool "break"', "Then an audit record says it failed"],
            [
                'When the agent calls the tool "search"',
                "| password | hunter2 |",
                "Then an audit record says it succeeded",
                "And no audit record holds hunter2",
            ],
            [
                'When "tool.completed" is published',
                "| tool_call_id | c-1 |",
                "| result_size | 17 |",
                'Then "tool.completed" was published',
                "| result_size | 17 |",
                "| phase | null |",
                "And every operation has ended",
            ],
        ],
    )
    def test_that_hold(self, behave: Callable[..., str], steps: list[str]) -> None:
        """
        What was published can be said of it.
        """
        assert "1 scenario passed" in behave(*steps, passes=True)

    @pytest.mark.parametrize(
        ("steps", "message"),
        [
            (
                ['Then "run.started" was published'],
                "run.started was not published, but pr.created, tool.started",
            ),
            (
                ['Then "pr.created" was published', "| url | /pull/8 |"],
                "pr.created was published with {'url': '/pull/7'}",
            ),
            (['Then "pr.created" was published 2 times'], "pr.created was published 1 times"),
            (['Then "pr.created" was not published'], "pr.created was published: PrCreated("),
            (
                ["Then these events were published", "| name |", "| pr.created |"],
                "pr.created, tool.started were published",
            ),
            (["Then every operation has ended"], "1 operations have not ended"),
            (
                ['When the agent calls the tool "drop"', "Then an audit record says it succeeded"],
                "the record says {'outcome': 'denied'}",
            ),
            (["Then no audit record holds /pull/7"], "it is in the record {"),
            (['Then "pr.craeted" was published'], "did you mean pr.created"),
        ],
    )
    def test_that_do_not_hold(
        self, behave: Callable[..., str], steps: list[str], message: str
    ) -> None:
        """
        What does not hold fails, and says what was published instead.
        """
        assert message in behave(*steps, passes=False)
