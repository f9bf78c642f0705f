"""
Transcripts of agents, recorded or live, as events: one reader for each format.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

import msgspec

from harken import Bus
from harken.adapters.transcripts._runs import TranscriptClock
from harken.adapters.transcripts.claude import ClaudeReader
from harken.adapters.transcripts.codex import CodexReader
from harken.adapters.transcripts.openai import OpenAITraceReader
from harken.adapters.transcripts.otel import OTelReader

__all__ = ["READERS", "Ingested", "Reader", "TranscriptClock", "ingest"]

Message = Mapping[str, Any]


class Reader(Protocol):
    """
    Publishes what the messages of one format say.
    """

    def read(self, message: Message) -> None:
        """
        Take one message.
        """

    def malformed(self, line: int) -> None:
        """
        Take note that a line is none.
        """

    def close(self) -> None:
        """
        Take note that there are no more messages: say what is known of runs without an end.
        """


READERS: Mapping[str, Callable[[Bus, TranscriptClock], Reader]] = {
    "claude-stream-json": ClaudeReader,
    "codex-jsonl": CodexReader,
    "openai-agents-trace": OpenAITraceReader,
    "otel-genai": OTelReader,
}


class Ingested(msgspec.Struct):
    """
    What became of a transcript.

    Attributes:
        messages: How many there were.

        malformed: The numbers of the lines that were none.
    """

    messages: int = 0
    malformed: list[int] = []


def ingest(bus: Bus, clock: TranscriptClock, format: str, lines: Iterable[bytes]) -> Ingested:
    """
    Publish on *bus* what the transcript *lines* says, line by line as it comes.

    Args:
        clock: That of *bus*.

        format: One of `READERS`.
    """
    reader = READERS[format](bus, clock)
    done = Ingested()
    try:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            found = list(_messages(line))
            done.messages += len(found)
            for message in found:
                reader.read(message)
            if not found:
                done.malformed.append(number)
                reader.malformed(number)
    finally:
        reader.close()
    return done


def _messages(line: bytes) -> Iterator[Message]:
    try:
        value = msgspec.json.decode(line)
    except (msgspec.DecodeError, RecursionError):
        return
    for message in value if isinstance(value, list) else [value]:
        if isinstance(message, dict):
            yield message
