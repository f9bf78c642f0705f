"""
The kit for tests of code on a bus.
"""

from __future__ import annotations

import subprocess
import textwrap
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from harken.catalog import PrCreated, ToolStarted
from harken.testing import START, FixedClock, capture, fixed_bus


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


class TestSteps:
    """
    What Behave says, with harken's steps, of an agent that publishes two events.
    """

    STEPS = """
        import harken.testing.steps
        from behave import when
        from harken.catalog import PrCreated, ToolStarted

        @when("the agent works")
        def works(context):
            context.bus.publish(PrCreated(url="/pull/7"))
            context.bus.publish(ToolStarted(tool_name="search", tool_call_id="c-1"))
    """
    ENVIRONMENT = """
        from harken import Bus
        from harken.testing.steps import listen

        def before_scenario(context, scenario):
            listen(context, Bus())
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
