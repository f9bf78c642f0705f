"""
The demo's model: its answers are written down, and streamed in pieces as a provider's are.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from typing import Literal

import msgspec

from harken import JSON, Bus, Operation
from harken.catalog import (
    LlmChunk,
    LlmRetried,
    LlmStarted,
    TextEmitted,
    ThinkingEmitted,
)

PROVIDER = "offline"
MODEL = "scripted-1"
MAX_CONTEXT = 8_000
"""Tokens that fit into the model's context."""

# US dollars for a million tokens, read and written.
_INPUT_PRICE, _OUTPUT_PRICE = 3.0, 15.0

# Seconds from one piece of an answer to the next, and before a call is tried again.
_PACE = 0.001
_PATIENCE = 0.01

Kind = Literal["text", "thinking", "tool_call"]
Pause = Callable[[float], None]


class Answer(msgspec.Struct, frozen=True):
    """
    What the model says: first to itself, then aloud, then by calling tools.
    """

    thinking: str = ""
    text: str = ""
    tools: tuple[str, ...] = ()


class Usage:
    """
    What a run has used up so far.
    """

    def __init__(self) -> None:
        self.input_tokens = 0
        self.output_tokens = 0
        self.reasoning_tokens = 0
        self.cost_usd = 0.0
        self.iterations = 0
        self.tool_calls = 0

    @property
    def tokens(self) -> int:
        """
        All tokens, read and written.
        """
        return self.input_tokens + self.output_tokens

    def fields(self) -> dict[str, JSON]:
        """
        Return them as the fields of a run's end.
        """
        return dict(vars(self))


class ModelError(Exception):
    """
    The model did not answer.
    """


class OverloadedError(ModelError):
    """
    The provider has too much to do; later it may answer.
    """


class ContextTooLongError(ModelError):
    """
    The context does not fit into the model.
    """


def tokens_of(text: str) -> int:
    """
    Return about how many tokens *text* has.
    """
    return len(text) // 4 + 1


class Blocks:
    """
    Puts the pieces of a streamed answer together, and publishes each block when it is whole.

    A piece of another kind ends a block, as `stop()` does.
    """

    def __init__(self, bus: Bus, llm_call_id: str) -> None:
        self._bus = bus
        self._llm_call_id = llm_call_id
        self._kind: Kind = "text"
        self._pieces: list[str] = []
        self._chunks = itertools.count()
        self._blocks = itertools.count()

    def add(self, kind: Kind, piece: str) -> None:
        """
        Take one piece.
        """
        if kind != self._kind:
            self.stop()
        self._kind = kind
        self._pieces.append(piece)
        self._bus.publish(
            LlmChunk(
                llm_call_id=self._llm_call_id,
                index=next(self._chunks),
                kind=kind,
                size=len(piece),
            )
        )

    def stop(self) -> None:
        """
        End the block, if there is one.
        """
        text = "".join(self._pieces)
        self._pieces.clear()
        if not text:
            return
        index = next(self._blocks)
        if self._kind == "thinking":
            self._bus.publish(ThinkingEmitted(block_index=index, thinking=text))
        elif self._kind == "text":
            self._bus.publish(TextEmitted(block_index=index, text=text))


class Model:
    """
    Answers one run, and keeps account of it in *usage*.

    Args:
        pause: Called with the seconds to wait for.

        tools: How many tools it may call.
    """

    def __init__(self, bus: Bus, usage: Usage, pause: Pause, *, tools: int) -> None:
        self._bus = bus
        self._pause = pause
        self._usage = usage
        self._tools = tools

    def ask(self, context: str, answer: Answer, *, overloaded: int = 0) -> None:
        """
        Ask with *context* and get *answer*, block by block.

        Args:
            overloaded: How often the provider turns the call away before it answers.

        Raises:
            ContextTooLongError: *context* has more than `MAX_CONTEXT` tokens.
        """
        attempt = 1
        while True:
            call = self._bus.operation(
                LlmStarted(
                    provider=PROVIDER,
                    model=MODEL,
                    streaming=True,
                    message_count=2 * self._usage.iterations,
                    tool_count=self._tools,
                    max_tokens=1024,
                )
            )
            try:
                self._answer(call, context, answer, busy=attempt <= overloaded)
            except OverloadedError as error:
                attempt += 1
                self._bus.publish(
                    LlmRetried(
                        llm_call_id=call.event.llm_call_id,
                        attempt=attempt,
                        delay_ms=round(_PATIENCE * 1000),
                        cause=type(error).__name__,
                    )
                )
                self._pause(_PATIENCE)
            else:
                return

    def _answer(
        self, call: Operation[LlmStarted], context: str, answer: Answer, *, busy: bool
    ) -> None:
        began = time.monotonic()
        asked = tokens_of(context)
        with call:
            if busy:
                call.fail(status_code=529, retryable=True)
                raise OverloadedError("the provider is overloaded")
            if asked > MAX_CONTEXT:
                call.fail(status_code=400, retryable=False)
                raise ContextTooLongError(f"{asked} tokens do not fit into {MAX_CONTEXT}")
            self._pause(_PACE)
            first = time.monotonic()
            self._stream(Blocks(self._bus, call.event.llm_call_id), answer)
            thought = tokens_of(answer.thinking) if answer.thinking else 0
            said = thought + tokens_of(answer.text) + 12 * len(answer.tools)
            cost = (asked * _INPUT_PRICE + said * _OUTPUT_PRICE) / 1_000_000
            self._usage.input_tokens += asked
            self._usage.output_tokens += said
            self._usage.reasoning_tokens += thought
            self._usage.cost_usd += cost
            call.complete(
                response_model=MODEL,
                input_tokens=asked,
                output_tokens=said,
                reasoning_tokens=thought,
                cost_usd=cost,
                finish_reasons=("tool_use",) if answer.tools else ("end_turn",),
                ttft_ms=round((first - began) * 1000),
            )

    def _stream(self, blocks: Blocks, answer: Answer) -> None:
        for piece in self._pieces(answer.thinking):
            blocks.add("thinking", piece)
        # Some providers tell where a block stops, others only begin the next one.
        blocks.stop()
        for piece in self._pieces(answer.text):
            blocks.add("text", piece)
        for tool in answer.tools:
            blocks.add("tool_call", tool)
        blocks.stop()

    def _pieces(self, text: str) -> Iterator[str]:
        """
        Yield *text* a few words at a time.
        """
        words = text.split(" ")
        for start in range(0, len(words), 6):
            self._pause(_PACE)
            yield (" " if start else "") + " ".join(words[start : start + 6])
