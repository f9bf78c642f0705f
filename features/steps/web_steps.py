"""
What stands between an agent and the network: requests that reach it, and the collector.
"""

from __future__ import annotations

import asyncio
import gzip
import os
import threading
from collections.abc import Awaitable, Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from agent import call_tool
from behave import given, then, when
from outputs import AUDIT, record_of
from scene import Scene, use

import harken
from harken.adapters.asgi import RequestScope

PATIENCE = 30.0
"""Seconds after which something that has to happen counts as not happening."""

Message = dict[str, Any]


@given("a web application whose agent has an audit log")
def web_application(context: Scene) -> None:
    bus = harken.configure(audit_jsonl_path=AUDIT, metrics=False, log=False, traces="off")
    use(context, bus)

    async def answer(scope: Message, receive: object, send: Callable[..., Awaitable[None]]) -> None:
        call_tool(bus)
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    context.application = RequestScope(answer)


@when('the request "{request}" with the trace "{trace}" makes the agent call a tool')
def request_with_ids(context: Scene, request: str, trace: str) -> None:
    trace_context = f"00-{trace}-00f067aa0ba902b7-01"
    ask(context, {"x-request-id": request, "traceparent": trace_context})


@when("a request without any ids makes the agent call a tool")
def request_without_ids(context: Scene) -> None:
    ask(context, {})


def ask(context: Scene, headers: dict[str, str]) -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.request"}

    given = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": "GET", "path": "/", "headers": given}
    asyncio.run(context.application(scope, receive, send))
    context.answered = {name.decode(): value.decode() for name, value in sent[0]["headers"]}


@then('the answer names the request and the trace of the record of "{name}"')
def answer_names(context: Scene, name: str) -> None:
    record = record_of(context, name)
    named = {"x-request-id": record["request_id"], "x-trace-id": record["trace_id"]}
    assert named == context.answered, context.answered


# The collector.


class Collector(ThreadingHTTPServer):
    """
    Takes requests of OTLP; it does not answer them before it may.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.bodies: list[bytes] = []
        self.may_answer = threading.Event()
        self.answered = 0


class Answer(BaseHTTPRequestHandler):
    """
    The answer to one request.
    """

    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        is_packed = self.headers.get("Content-Encoding") == "gzip"
        self.server.bodies.append(gzip.decompress(body) if is_packed else body)
        self.server.may_answer.wait(PATIENCE)
        self.server.answered += 1
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """
        Keep the features' output free of requests.
        """


@given("a collector of traces")
def collector(context: Scene) -> None:
    collector_that_does_not_answer(context)
    context.collector.may_answer.set()


@given("a collector of traces that does not answer")
def collector_that_does_not_answer(context: Scene) -> None:
    context.collector = Collector()
    threading.Thread(target=context.collector.serve_forever, daemon=True).start()
    context.add_cleanup(context.collector.server_close)
    context.add_cleanup(context.collector.shutdown)


@given("an agent whose spans go to that collector")
def agent_with_a_collector(context: Scene) -> None:
    url = f"http://127.0.0.1:{context.collector.server_address[1]}"
    os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = url
    use(context, harken.configure(audit=False, metrics=False, log=False))
    # Done before the bus is closed, which sends what is left.
    context.add_cleanup(context.collector.may_answer.set)


@then('the collector has the span "{name}"')
def collector_has(context: Scene, name: str) -> None:
    assert context.bus.flush(PATIENCE)
    assert any(name.encode() in body for body in context.collector.bodies)


@then("the agent has gone on before the collector answered")
def has_gone_on(context: Scene) -> None:
    assert 0 == context.collector.answered
