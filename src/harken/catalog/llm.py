"""
Calls of language models, and what the models say.
"""

from typing import Annotated

from harken.catalog._fields import (
    Characters,
    Digest,
    Dollars,
    Message,
    Milliseconds,
    Text,
    Thinking,
    Tokens,
    known,
)
from harken.event import Event


class LlmStarted(
    Event,
    name="llm.started",
    action="infer",
    resource="model:{model}",
    key="llm_call_id",
):
    """
    A model was called; published before the request leaves.

    Attributes:
        llm_call_id: The framework's id of the call; made when there is none.

        model: The model asked for.

        operation: ``chat``, ``text_completion`` or ``embeddings``.

        context_hash: The hash of the context that was sent, as in ``context.assembled``.

        max_tokens: The longest answer that is accepted.
    """

    llm_call_id: str = ""
    provider: str = ""
    model: str
    operation: Annotated[str, known("chat", "text_completion", "embeddings")] = "chat"
    streaming: bool = False
    message_count: int = 0
    tool_count: int = 0
    context_hash: str | None = None
    temperature: float | None = None
    max_tokens: Tokens | None = None


class LlmCompleted(
    Event,
    name="llm.completed",
    action="infer",
    resource="model:{model}",
    ends=LlmStarted,
    outcome="success",
):
    """
    A model answered; published once for each call, when the answer is whole.

    Attributes:
        model: The model asked for; *response_model* is the one that answered.

        input_tokens: All of them, those read from a cache included.

        output_tokens: All of them, those of reasoning included.

        cost_usd: None when nobody computed it.

        ttft_ms: From the request to the first piece of a streamed answer.
    """

    llm_call_id: str = ""
    model: str = ""
    response_model: str | None = None
    response_id: str | None = None
    input_tokens: Tokens = 0
    output_tokens: Tokens = 0
    reasoning_tokens: Tokens = 0
    cache_read_tokens: Tokens = 0
    cache_write_tokens: Tokens = 0
    cost_usd: Dollars | None = None
    finish_reasons: tuple[str, ...] = ()
    ttft_ms: Milliseconds | None = None
    duration_ms: Milliseconds | None = None


class LlmFailed(
    Event,
    name="llm.failed",
    action="infer",
    resource="model:{model}",
    ends=LlmStarted,
):
    """
    A call of a model did not lead to an answer.

    Attributes:
        status_code: That of the HTTP response, when there was one.

        retryable: Whether the same call may work later.

        outcome: ``failure``, ``timeout``, ``cancelled`` or ``orphaned``.
    """

    llm_call_id: str = ""
    model: str = ""
    error_type: str = ""
    status_code: int | None = None
    retryable: bool = False
    outcome: Annotated[str, known("failure", "timeout", "cancelled", "orphaned")] = "failure"
    duration_ms: Milliseconds | None = None


class LlmRetried(
    Event,
    name="llm.retried",
    action="retry",
    resource="llm_call:{llm_call_id}",
    outcome="deferred",
):
    """
    A call of a model did not work and will be tried again.

    Attributes:
        attempt: The number of the attempt to come; the first retry is 2.

        delay_ms: How long the agent waits before it.

        cause: The class of the error that made it necessary.
    """

    llm_call_id: str
    attempt: int = 0
    delay_ms: Milliseconds = 0
    cause: str = ""


class LlmChunk(
    Event,
    name="llm.chunk",
    action="stream",
    resource="llm_call:{llm_call_id}",
    outcome="success",
    transient=True,
):
    """
    A piece of a streamed answer arrived; for displays, and recorded nowhere unless asked for.

    Attributes:
        index: The place of the piece in the answer; the first is 0.

        kind: ``text``, ``thinking`` or ``tool_call``.
    """

    llm_call_id: str
    index: int = 0
    kind: Annotated[str, known("text", "thinking", "tool_call")] = "text"
    size: Characters = 0


class TextEmitted(
    Event,
    name="text.emitted",
    audit=True,
    action="say",
    resource="run:{run_id}",
    outcome="success",
):
    """
    The agent said something; published once for each whole block, not for its pieces.

    Attributes:
        block_index: The place of the block in the answer; the first is 0.

        text: Recorded only where content is captured. Digest and size are filled in.
    """

    block_index: int = 0
    size: Characters = 0
    digest: Digest = ""
    text: Text = None


class ThinkingEmitted(
    Event,
    name="thinking.emitted",
    audit=True,
    action="think",
    resource="run:{run_id}",
    outcome="success",
):
    """
    The agent thought aloud; published once for each whole block, not for its pieces.

    Attributes:
        block_index: The place of the block in the answer; the first is 0.

        thinking: Recorded only where content is captured. Digest and size are filled in.
    """

    block_index: int = 0
    size: Characters = 0
    digest: Digest = ""
    thinking: Thinking = None


class MessageAdded(
    Event,
    name="message.added",
    action="add",
    resource="message:{role}",
    outcome="success",
):
    """
    A message was added to the conversation that the model sees.

    Attributes:
        role: ``system``, ``user``, ``assistant`` or ``tool``.

        size: In characters; of the message's JSON when it is more than text.

        content:
            A text or any other JSON value; recorded only where content is captured. Digest and
            size are filled in.
    """

    role: Annotated[str, known("system", "user", "assistant", "tool")]
    message_id: str | None = None
    size: Characters = 0
    digest: Digest = ""
    content: Message = None
