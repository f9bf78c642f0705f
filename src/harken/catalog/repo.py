"""
Repositories, pipelines and pull requests.
"""

from typing import Annotated

from harken.catalog._fields import Actor, Bytes, Milliseconds, known
from harken.event import Event


class RepoCloned(
    Event,
    name="repo.cloned",
    action="clone",
    resource="repo:{repo}",
    outcome="success",
):
    """
    A repository was cloned for the agent to work in.

    Attributes:
        repo: Its name or its URL, without credentials.

        ref: The branch, the tag or the commit.
    """

    repo: str
    ref: str = ""
    size: Bytes | None = None
    duration_ms: Milliseconds | None = None


class PipelineTriggered(
    Event,
    name="pipeline.triggered",
    audit=True,
    action="trigger",
    resource="pipeline:{pipeline_id}",
    outcome="success",
):
    """
    The agent set a pipeline off; it runs elsewhere and may outlive the agent.

    Attributes:
        kind: ``plan``, ``apply`` or ``test``.
    """

    pipeline_id: str
    kind: Annotated[str, known("plan", "apply", "test")] = ""
    url: str | None = None


class PipelineCompleted(
    Event,
    name="pipeline.completed",
    audit=True,
    action="run",
    resource="pipeline:{pipeline_id}",
):
    """
    A pipeline that the agent had set off came to its end.

    Attributes:
        outcome:
            ``success``, ``failure``, ``timeout`` or ``cancelled``; ``unknown`` unless told, since
            completed is not successful.

        drift: How many differences a plan found.

        wait_ms: How long it waited before it ran.
    """

    pipeline_id: str
    outcome: Annotated[str, known("success", "failure", "timeout", "cancelled", "unknown")] = (
        "unknown"
    )
    drift: int | None = None
    wait_ms: Milliseconds | None = None
    duration_ms: Milliseconds | None = None


class PrCreated(
    Event,
    name="pr.created",
    audit=True,
    action="create",
    resource="pr:{url}",
    outcome="success",
):
    """
    The agent opened a pull request.

    Attributes:
        base: The branch it is to be merged into.
    """

    url: str
    repo: str = ""
    branch: str = ""
    base: str | None = None
    files_changed: int = 0
    additions: int = 0
    deletions: int = 0


class PrClosed(
    Event,
    name="pr.closed",
    audit=True,
    action="close",
    resource="pr:{url}",
    outcome="success",
):
    """
    A pull request of the agent was merged or turned down.

    Attributes:
        closed_by: Who did it, as ``kind:id``.
    """

    url: str
    merged: bool = False
    closed_by: Actor | None = None
