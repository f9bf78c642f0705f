"""
Starlette, FastAPI and every other ASGI application: a scope for each request.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, TypeAlias
from uuid import uuid4

import harken

ASGIScope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[ASGIScope, Receive, Send], Awaitable[None]]

# What comes from outside goes into every record and back into a header.
_ID = re.compile(rb"[\x21-\x7e]{1,128}")


class RequestScope:
    """
    Middleware: whatever is published while a request is answered says which request it was.

    The request's id is its ``X-Request-ID`` when that is at most 128 printable ASCII characters,
    else a new one; the trace is that of its ``traceparent`` and ``tracestate``, else the one that
    the application is in, else a new one; ``X-Correlation-ID`` is the correlation id. The response
    has ``X-Request-ID`` and ``X-Trace-ID``. WebSockets are requests, too. Give it to Starlette or
    FastAPI with ``app.add_middleware(RequestScope)``, or put it around any ASGI application.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        """
        Answer one request, or pass on what is none.
        """
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = _Headers(scope["headers"])
        request_id = headers.id(b"x-request-id") or uuid4().hex
        with harken.scope(
            request_id=request_id,
            correlation_id=headers.id(b"x-correlation-id"),
            traceparent=headers.single(b"traceparent"),
            tracestate=headers.joined(b"tracestate"),
        ):
            told = [(b"x-request-id", request_id.encode())]
            trace_id = harken.current_context().get("trace_id")
            if trace_id is not None:
                told.append((b"x-trace-id", trace_id.encode()))
            await self._app(scope, receive, _telling(send, told))


class _Headers:
    """
    The headers of a request, by name in lower case.
    """

    def __init__(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        self._values: dict[bytes, list[bytes]] = {}
        for name, value in headers:
            self._values.setdefault(name.lower(), []).append(value)

    def id(self, name: bytes) -> str | None:
        values = self._values.get(name, [])
        usable = len(values) == 1 and _ID.fullmatch(values[0])
        return values[0].decode() if usable else None

    def single(self, name: bytes) -> str | None:
        # The W3C asks for a trace of one's own when there is more than one.
        values = self._values.get(name, [])
        return values[0].decode("latin-1") if len(values) == 1 else None

    def joined(self, name: bytes) -> str | None:
        values = self._values.get(name)
        return b",".join(values).decode("latin-1") if values else None


def _telling(send: Send, told: list[tuple[bytes, bytes]]) -> Send:
    """
    Return *send* with the headers *told* on the start of the response, unless it has them.
    """

    async def send_told(message: Message) -> None:
        if message["type"] in ("http.response.start", "websocket.accept"):
            headers = [(bytes(name), bytes(value)) for name, value in message.get("headers", ())]
            known = {name.lower() for name, _ in headers}
            headers += [(name, value) for name, value in told if name not in known]
            message = {**message, "headers": headers}
        await send(message)

    return send_told
