"""
Questions to people, and their answers.
"""

from harken.catalog._fields import Actor, Bytes, Digest, Milliseconds, Seconds, Text
from harken.event import Event


class HumanInputRequested(
    Event,
    name="human_input.requested",
    audit=True,
    action="ask",
    resource="human_input:{request_id}",
    outcome="deferred",
):
    """
    The agent asked a person something; the answer may come days later.

    Attributes:
        request_id: The id of the question; the answer carries the same.

        question: Recorded only where content is captured. Digest and size are filled in.

        choices: How many answers were offered; None when any answer will do.

        timeout_s: How long the agent waits; None is for ever.
    """

    request_id: str
    question: Text = None
    question_digest: Digest = ""
    question_size: Bytes = 0
    choices: int | None = None
    timeout_s: Seconds | None = None


class HumanInputReceived(
    Event,
    name="human_input.received",
    audit=True,
    action="answer",
    resource="human_input:{request_id}",
    outcome="success",
):
    """
    A person answered the agent.

    Attributes:
        responder: Who, as ``kind:id``.

        response: Recorded only where content is captured. Digest and size are filled in.

        wait_ms: How long the answer took, by the wall clock.
    """

    request_id: str
    responder: Actor = ""
    response: Text = None
    response_digest: Digest = ""
    response_size: Bytes = 0
    wait_ms: Milliseconds | None = None


class HumanInputTimedOut(
    Event,
    name="human_input.timed_out",
    audit=True,
    action="ask",
    resource="human_input:{request_id}",
    outcome="timeout",
):
    """
    Nobody answered the agent in time.

    Attributes:
        wait_ms: How long the agent had waited, by the wall clock.
    """

    request_id: str
    wait_ms: Milliseconds | None = None
