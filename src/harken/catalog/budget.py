"""
Budgets and rate limits.
"""

from typing import Annotated

from harken.catalog._fields import Milliseconds, Ratio, known
from harken.event import Event, outcome_from


class _Budget(Event):
    """
    How much of which budget is used.
    """

    budget_type: Annotated[
        str, known("turns", "tokens", "tool_calls", "cost", "duration", "pipelines", "credentials")
    ]
    scope: Annotated[str, known("run", "session", "org")] = "run"
    limit: float = 0.0
    used: float = 0.0
    unit: str = ""
    utilization: Ratio = 0.0


class BudgetWarning(
    _Budget,
    name="budget.warning",
    audit=True,
    action="spend",
    resource="budget:{budget_type}",
    outcome="success",
):
    """
    A budget is nearly used up; the agent goes on.

    Attributes:
        budget_type:
            ``turns``, ``tokens``, ``tool_calls``, ``cost``, ``duration``, ``pipelines`` or
            ``credentials``.

        scope: ``run``, ``session`` or ``org``: whose budget it is.

        unit: Of *limit* and *used*, such as ``USD``, ``tokens`` or ``s``.

        utilization: *used* / *limit*.
    """


class BudgetExceeded(
    _Budget,
    name="budget.exceeded",
    audit=True,
    action="spend",
    resource="budget:{budget_type}",
    outcome=outcome_from("enforced", true="denied", false="failure"),
):
    """
    A budget is used up.

    Attributes:
        budget_type:
            ``turns``, ``tokens``, ``tool_calls``, ``cost``, ``duration``, ``pipelines`` or
            ``credentials``.

        scope: ``run``, ``session`` or ``org``: whose budget it is.

        unit: Of *limit* and *used*, such as ``USD``, ``tokens`` or ``s``.

        utilization: *used* / *limit*.

        enforced: Whether more is refused; the outcome is ``denied`` then, else ``failure``.

        action: ``stop``, ``pause`` or ``continue``: what the agent does now.
    """

    enforced: bool = False
    action: Annotated[str, known("stop", "pause", "continue")] = ""


class RateLimitHit(
    Event,
    name="rate_limit.hit",
    action="request",
    resource="provider:{provider}",
    outcome=outcome_from("status", allowed_warning="success", rejected="denied"),
):
    """
    A provider limits the rate of requests.

    Attributes:
        limit_type: What is limited, in the provider's words, such as ``requests``.

        retry_after_ms: How long to wait before the next request.

        status: ``rejected``, or ``allowed_warning`` when the limit is near; it decides the outcome.
    """

    provider: str
    limit_type: str = ""
    retry_after_ms: Milliseconds | None = None
    status: Annotated[str, known("allowed_warning", "rejected")] = "rejected"
