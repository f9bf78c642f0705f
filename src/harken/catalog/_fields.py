"""
The kinds of field that event types share: numbers with a unit, digests, actors, times.
"""

from datetime import datetime
from typing import Annotated, TypeAlias

import msgspec

from harken.event import JSON, content, unit


def known(*words: str) -> msgspec.Meta:
    """
    Name the words that a text usually is; they are the ``examples`` of the JSON Schema.

    An enumeration would refuse a word that is not in it, and a violation that cannot be recorded
    is worse than one with a strange name.
    """
    return msgspec.Meta(examples=list(words))


Milliseconds: TypeAlias = Annotated[int, unit("ms")]
Seconds: TypeAlias = Annotated[int, unit("s")]
Bytes: TypeAlias = Annotated[int, unit("bytes")]
Characters: TypeAlias = Annotated[int, unit("chars")]
Tokens: TypeAlias = Annotated[int, unit("tokens")]
Dollars: TypeAlias = Annotated[float, unit("USD")]
Ratio: TypeAlias = Annotated[float, unit("ratio")]

Digest: TypeAlias = Annotated[
    str, msgspec.Meta(description="A digest that names its algorithm, such as sha256:2c26b4...")
]
Actor: TypeAlias = Annotated[
    str, msgspec.Meta(description="Who, as kind:id", examples=["user:alice", "agent:billing"])
]
Time: TypeAlias = Annotated[datetime, msgspec.Meta(tz=True)]
"""Timezone-aware; recorded in RFC 3339."""

Arguments: TypeAlias = Annotated[JSON, content("arguments")]
Result: TypeAlias = Annotated[JSON, content("result")]
Text: TypeAlias = Annotated[str | None, content("text")]
Thinking: TypeAlias = Annotated[str | None, content("thinking")]
Message: TypeAlias = Annotated[JSON, content("messages")]
