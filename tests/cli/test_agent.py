"""
The demo's agent, when something happens that is not in its story.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from harken import Bus
from harken.catalog import LlmCompleted, RunFailed
from harken.cli._agent import Agent
from harken.testing import capture


def failing_at(path: str, folder: Path) -> tuple[Bus, Agent]:
    """
    Return an agent that cannot write the file at *path*, because a folder has its name.
    """
    (folder / path).mkdir(parents=True)
    bus = Bus()
    return bus, Agent(bus, folder)


def test_an_error_ends_everything_around_it(tmp_path: Path) -> None:
    """
    What was begun ends with the error, from the inside out, and the error goes to the caller.
    """
    bus, agent = failing_at("README.md", tmp_path)

    with capture(bus) as heard, pytest.raises(IsADirectoryError):
        agent.work(1)

    assert ["phase.failed", "run.failed", "session.ended"] == heard.names[-3:]
    assert ["failure"] == list({str(e.outcome.value) for e in heard.envelopes[-3:] if e.outcome})
    assert 0 == bus.health().open_operations


def test_a_failure_is_not_free(tmp_path: Path) -> None:
    """
    A run that fails half-way says what it had used up until then.
    """
    bus, agent = failing_at("asked_before/twice", tmp_path)

    with capture(bus) as heard, pytest.raises(OSError, match="asked_before"):
        agent.work(1)

    (failed,) = heard.of(RunFailed)
    calls = heard.of(LlmCompleted)
    assert 4 == len(calls) == failed.iterations
    assert sum(call.output_tokens for call in calls) == failed.output_tokens
