"""
What the model gets to see: context, memory and retrieval.
"""

from typing import Annotated

from harken.catalog._fields import Bytes, Digest, Milliseconds, Ratio, Tokens, known
from harken.event import Event


class ContextAssembled(
    Event,
    name="context.assembled",
    action="assemble",
    resource="context:{run_id}",
    outcome="success",
):
    """
    The context of a model's call was put together.

    Attributes:
        fragments: Of how many parts it was made.

        budget_utilization: *tokens_used* / *token_budget*; above 1 when it did not fit.

        tier: ``hot``, ``warm`` or ``cold``: where the parts came from.

        truncated: Whether parts were left out or cut.
    """

    fragments: int = 0
    tokens_used: Tokens = 0
    token_budget: Tokens = 0
    budget_utilization: Ratio = 0.0
    tier: Annotated[str | None, known("hot", "warm", "cold")] = None
    strategy: str | None = None
    context_hash: str | None = None
    truncated: bool = False
    duration_ms: Milliseconds | None = None


class ContextQueried(
    Event,
    name="context.queried",
    action="query",
    resource="index:{backend}",
    outcome="success",
):
    """
    An index was asked for parts of a context.

    Attributes:
        backend: ``text``, ``vector`` or ``graph``.
    """

    backend: Annotated[str, known("text", "vector", "graph")]
    hits: int = 0
    duration_ms: Milliseconds | None = None


class ContextCompacted(
    Event,
    name="context.compacted",
    action="compact",
    resource="context:{run_id}",
    outcome="success",
):
    """
    The conversation was made shorter; what was cut the model no longer knows.

    Attributes:
        reason: ``auto`` or ``manual``.
    """

    reason: Annotated[str, known("auto", "manual")] = "auto"
    tokens_before: Tokens = 0
    tokens_after: Tokens = 0
    duration_ms: Milliseconds | None = None


class MemoryRead(
    Event,
    name="memory.read",
    action="read",
    resource="memory:{store}",
    outcome="success",
):
    """
    The agent looked something up in a memory that outlives the run.

    Attributes:
        key_or_query_digest: The key, or the digest of a query in words.
    """

    store: str
    key_or_query_digest: str = ""
    hits: int = 0
    duration_ms: Milliseconds | None = None


class MemoryWritten(
    Event,
    name="memory.written",
    audit=True,
    action="write",
    resource="memory:{store}/{key}",
    outcome="success",
):
    """
    The agent put something into a memory that later runs will read.

    Attributes:
        source: Where it came from, such as ``user``, ``model`` or a tool's name.
    """

    store: str
    key: str
    size: Bytes = 0
    digest: Digest = ""
    source: str = ""


class RetrievalCompleted(
    Event,
    name="retrieval.completed",
    action="retrieve",
    resource="retrieval:{source}",
):
    """
    Documents were fetched for the model.

    Attributes:
        source: The index, the collection or the search engine.

        outcome: ``success``, ``failure`` or ``timeout``.
    """

    source: str
    query_digest: Digest = ""
    hits: int = 0
    duration_ms: Milliseconds | None = None
    outcome: Annotated[str, known("success", "failure", "timeout")] = "success"
