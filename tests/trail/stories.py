"""
A small log that tells a story, event by event.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.trail.corpora import BEGAN_NS, SECOND, Chain, event_id

import harken.trail
from harken.trail import Trail


class Story:
    """
    Writes a log event by event; each is called by a name.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ids: dict[str, str] = {}
        self.seqs: dict[str, int] = {}
        self._chain = Chain()
        self.lines: list[bytes] = []
        self.time_ns = BEGAN_NS

    def add(self, name: str, event_type: str, after: float = 1.0, **members: Any) -> Story:
        self.time_ns += int(after * SECOND)
        members = {"outcome": "success", **members}
        for link in ("causation_id", "started_event_id"):
            if link in members:
                members[link] = self.ids.get(members[link], members[link])
        number = len(self.lines) + 1
        self.ids[name] = event_id(self.time_ns, number)
        self.seqs[name] = number
        line = self._chain.line(self.time_ns, id=self.ids[name], event_type=event_type, **members)
        self.lines.append(line)
        return self

    def write(self) -> None:
        self.path.write_bytes(b"".join(self.lines))

    def trail(self) -> Trail:
        self.write()
        return harken.trail.open(self.path)

    def named(self, seqs: list[int]) -> list[str]:
        names = {seq: name for name, seq in self.seqs.items()}
        return [names[seq] for seq in seqs]


def write_story(path: Path) -> Story:
    """
    A run: a tool that asks a person, and a second one, within it another run.
    """
    story = Story(path)
    run = {"run_id": "r1", "session_id": "s"}
    inner = {"run_id": "r2", "parent_run_id": "r1"}
    story.add(
        "run", "run.started", outcome=None, span_id="a" * 16, metadata={"prompt": "Mend it"}, **run
    )
    story.add(
        *("tool", "tool.started"),
        outcome=None,
        span_id="b" * 16,
        parent_span_id="a" * 16,
        causation_id="run",
        metadata={"tool_name": "bash", "arguments": {"cmd": "ls"}},
        **run,
    )
    story.add(
        *("policy", "policy.evaluated", 0.1),
        span_id="b" * 16,
        causation_id="tool",
        outcome="deferred",
        metadata={"policy_id": "p", "decision": "escalate"},
        **run,
    )
    story.add(
        *("ask", "approval.requested", 0.1),
        span_id="b" * 16,
        causation_id="tool",
        outcome="deferred",
        metadata={"approval_id": "q-1"},
        **run,
    )
    story.add(
        *("answer", "approval.denied", 100),
        span_id="b" * 16,
        causation_id="tool",
        outcome="denied",
        actor="user:ana",
        metadata={"approval_id": "q-1", "reason": "no"},
        **run,
    )
    story.add(
        *("tool end", "tool.denied"),
        span_id="b" * 16,
        parent_span_id="a" * 16,
        started_event_id="tool",
        causation_id="tool",
        outcome="denied",
        metadata={"tool_name": "bash", "duration_ms": 102_000},
        **run,
    )
    story.add(
        *("llm", "llm.completed"),
        span_id="c" * 16,
        parent_span_id="a" * 16,
        started_event_id=event_id(BEGAN_NS, 999),
        causation_id=event_id(BEGAN_NS, 999),
        metadata={
            "model": "m",
            "input_tokens": 10,
            "output_tokens": 5,
            "cost_usd": 0.5,
            "duration_ms": 900,
        },
        **run,
    )
    story.add(
        *("inner", "run.started"),
        outcome=None,
        span_id="d" * 16,
        parent_span_id="a" * 16,
        causation_id="run",
        **inner,
    )
    story.add(
        *("inner end", "run.failed"),
        span_id="d" * 16,
        parent_span_id="a" * 16,
        started_event_id="inner",
        outcome="failure",
        metadata={"error_message": "broken", "input_tokens": 3},
        **inner,
    )
    story.add("other", "run.started", outcome=None, span_id="e" * 16, run_id="r3")
    return story
