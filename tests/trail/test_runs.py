"""
Runs, causes, effects, figures, differences and spans of a made-up log.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.trail.corpora import BEGAN_NS, SECOND, Chain, event_id
from tests.trail.stories import Story, write_story

import harken.trail
from harken.sinks.audit import AuditLog
from harken.trail import Filter, FilterError, NotFoundError
from harken.trail.causes import Effect, is_decision
from harken.trail.diff import diff
from harken.trail.otlp import AT_ONCE, OPEN, to_otlp
from harken.trail.stats import EXACT, Durations


@pytest.fixture
def story(tmp_path: Path) -> Story:
    return write_story(tmp_path / "audit.jsonl")


class TestRuns:
    def test_summaries(self, story: Story) -> None:
        """
        A run has what it says of itself, and else what its calls of models add up to.
        """
        with story.trail() as trail:
            first, second, third = trail.runs()

        assert ("r1", 7, 1, 1, 0, 2, 10, 5, 0.5, None, "Mend it") == (
            *(first.run_id, first.events, first.llm_calls, first.tool_calls, first.errors),
            *(first.denied, first.input_tokens, first.output_tokens, first.cost_usd),
            *(first.outcome, first.what),
        )
        assert ("r2", "failure", "r1", 3, 1) == (
            *(second.run_id, second.outcome, second.parent_run_id, second.input_tokens),
            second.errors,
        )
        assert ("r3", None, 1) == (third.run_id, third.outcome, third.events)

    def test_last(self, story: Story) -> None:
        """
        The last run is that of the newest record that is of a run at all.
        """
        with story.trail() as trail:
            assert trail.runs()[-1] == trail.last_run().summary

    def test_last_of_none(self, tmp_path: Path) -> None:
        """
        A log without any run says so.
        """
        AuditLog(tmp_path / "audit.jsonl").close()

        with (
            harken.trail.open(tmp_path / "audit.jsonl") as trail,
            pytest.raises(NotFoundError, match="is of a run"),
        ):
            trail.last_run()

    def test_of_a_filter(self, story: Story) -> None:
        """
        Only wanted records count.
        """
        with story.trail() as trail:
            (only,) = trail.runs(Filter(outcomes=("denied",)))

        assert ("r1", 2) == (only.run_id, only.events)

    def test_tree(self, story: Story) -> None:
        """
        A run shows what happened within what, and the runs that it started.
        """
        with story.trail() as trail:
            run = trail.run("r1")

        (root,) = run.tree
        assert [
            (0, "run.started", "unclosed", None),
            (1, "tool.started", "denied", 102.0),
            (2, "policy.evaluated", "deferred", None),
            (2, "approval.requested", "deferred", None),
            (2, "approval.denied", "denied", None),
            (1, "llm.completed", "success", 0.9),
            (1, "run.started", "failure", 1.0),
        ] == [
            (depth, node.first.event_type, node.outcome, node.seconds)
            for depth, node in root.walk()
        ]
        # What has no start on record began before its end.
        assert root.below[1].end is not None
        assert root.below[1].began == root.below[1].end.time.timestamp() - 0.9
        assert 9 == len(run.records)
        assert 7 == run.summary.events

    def test_unknown(self, story: Story) -> None:
        """
        A run that is not there is not found, also when another one names it.
        """
        with story.trail() as trail, pytest.raises(NotFoundError, match="harken runs"):
            trail.run("r9")

    def test_deep(self, tmp_path: Path) -> None:
        """
        Operations may be nested as deep as their author likes.
        """
        story = Story(tmp_path / "a.jsonl")
        for number in range(3000):
            story.add(
                str(number),
                "agent.started",
                0.001,
                outcome=None,
                run_id="r",
                span_id=f"{number:016x}",
                parent_span_id=f"{number - 1:016x}" if number else None,
            )

        with story.trail() as trail:
            (root,) = trail.run("r").tree

        assert (2999, "agent.started") == [
            (depth, node.first.event_type) for depth, node in root.walk()
        ][-1]


class TestWhy:
    def test_chain(self, story: Story) -> None:
        """
        An answer goes back to its question, that to its tool, and so to the start of the run.
        """
        with story.trail() as trail:
            why = trail.why(story.ids["answer"])

        assert [
            ("answer", "subject"),
            ("ask", "answers"),
            ("tool", "because"),
            ("run", "because"),
        ] == [(*story.named([step.record.seq]), step.link) for step in why.steps]
        assert ("origin", None, None) == (why.stopped, why.missing, why.run)
        tool = why.steps[2]
        assert ["policy"] == story.named([policy.seq for policy in tool.policies])
        assert tool.end is None  # It came 100 seconds later, which is not near.

    def test_end_of_an_operation(self, story: Story) -> None:
        """
        What ended goes back to what began.
        """
        with story.trail() as trail:
            why = trail.why(story.ids["tool end"])

        assert ["subject", "ends", "because"] == [step.link for step in why.steps]

    def test_missing_cause(self, story: Story) -> None:
        """
        A cause that is not in the log is named; what it happened within is no cause.
        """
        with story.trail() as trail:
            why = trail.why(story.ids["llm"])

        assert [("llm", "subject"), ("run", "within")] == [
            (*story.named([step.record.seq]), step.link) for step in why.steps
        ]
        assert "origin" == why.stopped

    def test_end_of_the_record(self, story: Story) -> None:
        """
        Where the record ends, the run and the record before are told, as what they are.
        """
        gone = event_id(story.time_ns, 77)
        story.add("lone", "text.emitted", run_id="r1", causation_id=gone, span_id="f" * 16)

        with story.trail() as trail:
            why = trail.why(story.ids["lone"])

        assert ("missing", gone) == (why.stopped, why.missing)
        assert why.run is not None
        assert why.before is not None
        assert ["run", "llm"] == story.named([why.run.seq, why.before.seq])

    def test_cycle(self, tmp_path: Path) -> None:
        """
        Causes that go in a circle are told once.
        """
        story = Story(tmp_path / "a.jsonl")
        second = event_id(BEGAN_NS + 2 * SECOND, 2)
        story.add("a", "error.raised", causation_id=second)
        story.add("b", "error.raised", causation_id="a")
        story.add("self", "error.raised", causation_id=event_id(BEGAN_NS + 3 * SECOND, 3))

        with story.trail() as trail:
            why = trail.why(story.ids["a"])
            alone = trail.why(story.ids["self"])

        assert ("cycle", story.ids["a"], 2) == (why.stopped, why.missing, len(why.steps))
        assert ("cycle", 1) == (alone.stopped, len(alone.steps))

    def test_cause_that_is_later(self, tmp_path: Path) -> None:
        """
        A cause that stands behind its effect is found.
        """
        story = Story(tmp_path / "a.jsonl")
        later = event_id(BEGAN_NS + int(1.5 * SECOND), 2)
        story.add("effect", "error.raised", causation_id=later)
        story.add("cause", "error.raised", 0.5)

        with story.trail() as trail:
            why = trail.why("1")

        assert ["effect", "cause"] == story.named([step.record.seq for step in why.steps])

    def test_cause_in_another_file(self, story: Story) -> None:
        """
        A chain goes on in the file before.
        """
        story.trail().close()
        story.path.rename(story.path.with_name("audit.jsonl.1"))
        story.lines.clear()
        story.add("next", "error.raised", causation_id="inner", run_id="r2")

        with story.trail() as trail:
            why = trail.why(story.ids["next"])

        assert ["subject", "because", "because"] == [step.link for step in why.steps]

    def test_id_without_a_time(self, tmp_path: Path) -> None:
        """
        A cause whose id holds no time is looked for everywhere.
        """
        story = Story(tmp_path / "a.jsonl")
        story.add("a", "error.raised")
        story.add("b", "error.raised", 5000, causation_id="custom-1")
        story.lines[0] = Chain().line(BEGAN_NS, id="custom-1")

        with story.trail() as trail:
            assert 2 == len(trail.why("2").steps)


class TestEffects:
    def test_tree(self, story: Story) -> None:
        """
        What an event led to, and what that led to; the end of an operation is no effect of it.
        """
        with story.trail() as trail:
            effects = trail.effects(story.ids["run"])

        def named(effect: Effect) -> Any:
            return story.named([effect.record.seq])[0], [named(one) for one in effect.effects]

        assert (
            "run",
            [("tool", [("policy", []), ("ask", []), ("answer", [])]), ("inner", [])],
        ) == (named(effects.root))
        assert 5 == effects.count
        ended = effects.root.effects[0].end
        assert ended is not None
        assert "denied" == ended.outcome

    def test_none(self, story: Story) -> None:
        """
        What led to nothing has no effects.
        """
        with story.trail() as trail:
            assert (0, []) == (
                trail.effects("10").count,
                trail.effects("10").root.effects,
            )


@pytest.mark.parametrize(
    ("event_type", "outcome", "expected"),
    [
        ("approval.denied", "denied", True),
        ("tool.denied", "denied", True),
        ("run.cancelled", "cancelled", True),
        ("policy.evaluated", "success", True),
        ("tool.completed", "success", False),
    ],
)
def test_decisions(story: Story, event_type: str, outcome: str, *, expected: bool) -> None:
    """
    A decision is what a policy, a guard, a budget or a person decided.
    """
    story.add("one", event_type, outcome=outcome)
    with story.trail() as trail:
        assert expected == is_decision(trail.find(story.ids["one"]).record)


class TestStats:
    def test_by_type(self, story: Story) -> None:
        """
        Records are counted by type, the largest group first.
        """
        with story.trail() as trail:
            stats = trail.stats("type")

        assert ("run.started", 3) == (stats.groups[0].name, stats.groups[0].events)
        assert (10, 3, 1, 2) == (
            *(stats.total.events, stats.total.calls, stats.total.errors),
            stats.total.denied,
        )
        # Those of runs are the sums of those of calls.
        assert (10, 5, 0.5) == (
            *(stats.total.input_tokens, stats.total.output_tokens),
            stats.total.cost_usd,
        )
        assert {"p50": 900.0, "p95": 102_000.0} == stats.total.durations_ms

    @pytest.mark.parametrize(
        ("by", "expected"),
        [
            ("tool", [("bash", 2)]),
            ("model", [("m", 1)]),
            ("run", [("r1", 7), ("r2", 2), ("r3", 1)]),
            ("outcome", [("-", 4), ("deferred", 2), ("denied", 2), ("failure", 1), ("success", 1)]),
        ],
    )
    def test_by_others(self, story: Story, by: str, expected: list[tuple[str, int]]) -> None:
        """
        Records can be grouped by other members, and by some of their metadata.
        """
        with story.trail() as trail:
            assert expected == [(group.name, group.events) for group in trail.stats(by).groups]

    def test_filter(self, story: Story) -> None:
        """
        Only wanted records count, also when the filter looks into the metadata.
        """
        from harken.trail import Condition

        where = Filter(where=(Condition.parse("data.model=m"),))
        with story.trail() as trail:
            assert 1 == trail.stats("type", where).total.events
            assert 2 == trail.stats("type", Filter(runs=("r2",))).total.events

    @pytest.mark.parametrize(("by", "parts"), [("colour", (50,)), ("type", (101,))])
    def test_nonsense(self, story: Story, by: str, parts: tuple[float, ...]) -> None:
        """
        What nothing can be grouped by is refused.
        """
        with story.trail() as trail, pytest.raises(FilterError):
            trail.stats(by, percentiles=parts)

    def test_percentiles_of_many(self) -> None:
        """
        Of more durations than are kept, percentiles are right within 2 %.
        """
        durations = Durations()
        assert durations.percentile(50) is None
        for number in range(EXACT + 1000):
            durations.add(number / 100)
        for part in (1, 50, 99):
            found = durations.percentile(part)
            assert found is not None
            assert abs(found / (EXACT * part / 10_000) - 1) < 0.02
        assert durations.percentile(0) == pytest.approx(0.001, rel=0.02)


class TestDiff:
    def test_same_and_other(self, story: Story) -> None:
        """
        A run is like itself, and unlike another; what only one did is told.
        """
        with story.trail() as trail:
            first, other = trail.run("r1"), trail.run("r3")

        assert diff(first, first).is_none
        changes = diff(first, other)
        assert not changes.is_none
        assert {"-": 6, "=": 1} == {
            sign: [change.sign for change in changes.changes].count(sign) for sign in ("-", "=")
        }

    def test_arguments(self, tmp_path: Path) -> None:
        """
        The same tools with other arguments are the same, unless arguments matter.
        """
        story = Story(tmp_path / "a.jsonl")
        for run in ("x", "y"):
            story.add(
                run,
                "tool.started",
                outcome=None,
                run_id=run,
                metadata={"tool_name": "t", "arguments_digest": f"sha256:{run}"},
            )
        with story.trail() as trail:
            first, second = trail.run("x"), trail.run("y")

        assert diff(first, second).is_none
        assert not diff(first, second, arguments=True).is_none


class TestOtlp:
    def test_spans(self, story: Story) -> None:
        """
        Each operation is a span with the ids of the log; what happened in it are its events.
        """
        with story.trail() as trail:
            (request,) = to_otlp(trail.records())

        spans = request["resourceSpans"][0]["scopeSpans"][0]["spans"]
        by_span = {span["spanId"]: span for span in spans}
        tool, llm, run = by_span["b" * 16], by_span["c" * 16], by_span["a" * 16]
        assert ["policy.evaluated", "approval.requested", "approval.denied"] == [
            event["name"] for event in tool["events"]
        ]
        assert ("a" * 16, "tool search", 2) == (
            *(tool["parentSpanId"], tool["name"]),
            tool["status"]["code"],
        )
        assert 900_000_000 == int(llm["endTimeUnixNano"]) - int(llm["startTimeUnixNano"])
        assert {"key": "harken.outcome", "value": {"stringValue": "unclosed"}} in run["attributes"]
        assert "broken" == by_span["d" * 16]["status"]["message"]
        assert {"key": "harken.metadata.cost_usd", "value": {"doubleValue": 0.5}} in llm[
            "attributes"
        ]
        assert json.dumps(request)

    def test_events_alone(self, tmp_path: Path) -> None:
        """
        An event outside of any operation is a span of no length, with its own id each time.
        """
        story = Story(tmp_path / "a.jsonl")
        for number in range(AT_ONCE + 1):
            story.add(
                str(number), "text.emitted", span_id="a" * 16, metadata={"is": True, "of": [1]}
            )
        with story.trail() as trail:
            first, second = to_otlp(trail.records())
            again = next(iter(to_otlp(trail.records())))

        spans = first["resourceSpans"][0]["scopeSpans"][0]["spans"]
        assert AT_ONCE == len({span["spanId"] for span in spans})
        assert {"a" * 16} == {span["parentSpanId"] for span in spans}
        assert again == first
        assert 1 == len(second["resourceSpans"][0]["scopeSpans"][0]["spans"])

    def test_never_ended(self, tmp_path: Path) -> None:
        """
        Operations that never end are not waited for without end.
        """
        chain = Chain()
        path = tmp_path / "a.jsonl"
        starts = (
            chain.line(BEGAN_NS + number * 1000, outcome=None, span_id=f"{number:016x}")
            for number in range(OPEN + 10)
        )
        path.write_bytes(b"".join(starts))
        with harken.trail.open(path) as trail:
            requests = list(to_otlp(trail.records()))

        spans = [s for r in requests for s in r["resourceSpans"][0]["scopeSpans"][0]["spans"]]
        assert OPEN + 10 == len(spans)
