"""
A scope for each request, behind a real server.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import uvicorn

import harken
from harken import Bus
from harken.adapters.asgi import App, RequestScope
from harken.catalog import ToolStarted
from harken.testing import Captured

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"


@contextmanager
def serving(app: Any) -> Iterator[int]:
    """
    Serve *app* on this machine; give its port.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_level="error", lifespan="on", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


def get(port: int, path: str = "/", **headers: str) -> tuple[dict[str, Any], dict[str, str]]:
    """
    Get *path*; return the JSON and the headers of the response.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request("GET", path, headers=named)
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return json.loads(body or b"{}"), {name.lower(): value for name, value in response.getheaders()}


def plain_app(bus: Bus) -> App:
    """
    Return an application that calls a tool and says what the scope says.
    """

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while True:
                message = await receive()
                await send({"type": f"{message['type']}.complete"})
                if message["type"] == "lifespan.shutdown":
                    return
        if scope["path"] == "/broken":
            raise ValueError("no such invoice")
        with bus.operation(ToolStarted(tool_name=scope["path"])):
            await asyncio.sleep(0.02)
        body = json.dumps(harken.current_context()).encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})

    return RequestScope(app)


def starlette_app(bus: Bus) -> Any:
    """
    Return the same in Starlette.
    """
    pytest.importorskip("starlette")
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    async def answer(request: Request) -> JSONResponse:
        with bus.operation(ToolStarted(tool_name=request.url.path)):
            await asyncio.sleep(0.02)
        return JSONResponse(harken.current_context())

    app = Starlette(routes=[Route("/{path:path}", answer)])
    app.add_middleware(RequestScope)
    return app


def fastapi_app(bus: Bus) -> Any:
    """
    Return the same in FastAPI, as a function that runs in a thread.
    """
    fastapi = pytest.importorskip("fastapi")
    app = fastapi.FastAPI()
    app.add_middleware(RequestScope)

    @app.get("/{path:path}")
    def answer(path: str) -> dict[str, str]:
        with bus.operation(ToolStarted(tool_name=f"/{path}")):
            return harken.current_context()

    return app


apps = pytest.mark.parametrize("make", [plain_app, starlette_app, fastapi_app])


@apps
def test_a_request_has_a_scope(bus: Bus, heard: Captured, make: Callable[[Bus], Any]) -> None:
    """
    What is published for a request says the ids that came with it, and so does the response.
    """
    with serving(make(bus)) as port:
        body, headers = get(
            port, x_request_id="req-7", x_correlation_id="c-9", traceparent=PARENT, tracestate="a=1"
        )

    assert ("req-7", TRACE, "c-9") == (
        body["request_id"],
        body["trace_id"],
        body["correlation_id"],
    )
    assert {("req-7", TRACE, "c-9")} == {
        (item.request_id, item.trace_id, item.correlation_id) for item in heard.envelopes
    }
    assert "00f067aa0ba902b7" == heard.envelopes[0].parent_span_id
    assert ("req-7", TRACE) == (headers["x-request-id"], headers["x-trace-id"])


@apps
def test_a_request_without_ids_gets_new_ones(
    bus: Bus, heard: Captured, make: Callable[[Bus], Any]
) -> None:
    """
    Each request has its own ids when it brings none.
    """
    with serving(make(bus)) as port:
        told = [get(port) for _ in range(2)]

    for body, headers in told:
        assert (body["request_id"], body["trace_id"]) == (
            headers["x-request-id"],
            headers["x-trace-id"],
        )
    assert 2 == len({body["request_id"] for body, _ in told})
    assert 2 == len({item.trace_id for item in heard.envelopes})


@apps
def test_requests_at_once_are_not_mixed(
    bus: Bus, heard: Captured, make: Callable[[Bus], Any]
) -> None:
    """
    Each event has the id of the request that it was published for.
    """
    with serving(make(bus)) as port, ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: get(port, f"/{n}", x_request_id=f"r-{n}"), range(16)))

    assert {f"/{n}": f"r-{n}" for n in range(16)} == {
        item.event.tool_name: item.request_id
        for item in heard.envelopes
        if isinstance(item.event, ToolStarted)
    }


@pytest.mark.parametrize(
    "headers",
    [
        {"x_request_id": "x" * 129},
        {"x_request_id": "two words"},
        {"x_request_id": ""},
        {"x_request_id": "caf\u00e9"},
        {"traceparent": "00-nonsense"},
        {"traceparent": f"ff-{TRACE}-00f067aa0ba902b7-01"},
    ],
)
def test_ids_that_are_none_are_not_taken(
    bus: Bus, heard: Captured, headers: dict[str, str]
) -> None:
    """
    An id that is too long or not printable is replaced, and a malformed trace counts as none.
    """
    with serving(plain_app(bus)) as port:
        body, told = get(port, **headers)

    assert body["request_id"] not in headers.values()
    assert body["trace_id"] != TRACE
    assert body["request_id"] == told["x-request-id"]


def test_an_error_of_the_application_is_the_servers(bus: Bus) -> None:
    """
    What the application raises goes on to the server, and the next request is answered.
    """
    with serving(plain_app(bus)) as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("GET", "/broken")
        assert 500 == connection.getresponse().status
        connection.close()

        body, _ = get(port, x_request_id="r-2")

    assert "r-2" == body["request_id"]


def test_a_header_that_the_application_sets_is_kept(bus: Bus) -> None:
    """
    The application's own word about the request's id counts.
    """

    async def app(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"X-Request-ID", b"mine")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"{}"})

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request"}

    request = {"type": "http", "headers": [(b"traceparent", b"x"), (b"traceparent", b"y")]}
    asyncio.run(RequestScope(app)(request, receive, send))

    names = [name.lower() for name, _ in sent[0]["headers"]]
    assert 1 == names.count(b"x-request-id")
    assert b"mine" == dict(sent[0]["headers"])[b"X-Request-ID"]
