"""
Real servers that can be killed, and the way between them and us that can be blocked.
"""

from __future__ import annotations

import shutil
import signal
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path

from tests.servers import Process, free_port, kill, start


class Server:
    """
    A server of its own process and folder, on a port that it keeps over restarts.
    """

    scheme = ""

    def __init__(self, command: str, folder: Path, port: int | None = None) -> None:
        self.command = command
        self.folder = folder
        self.port = free_port() if port is None else port
        self.folder.mkdir(exist_ok=True)
        self.process: Process | None = None

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def argv(self) -> list[str]:
        raise NotImplementedError

    def start(self) -> None:
        self.process = start(self.argv(), self.folder / "log.txt", self.answers)

    def answers(self) -> bool:
        with socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True

    def kill(self) -> None:
        """
        End it as a crash does.
        """
        assert self.process is not None
        kill(self.process)

    def pause(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def empty(self) -> None:
        """
        Remove what it has stored; it must not be running.
        """
        raise NotImplementedError


class RedisServer(Server):
    scheme = "redis"

    def argv(self) -> list[str]:
        return [
            self.command,
            *("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)),
            *("--save", "", "--appendonly", "yes", "--appendfsync", "everysec"),
        ]

    def answers(self) -> bool:
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(100).startswith(b"+PONG")

    def empty(self) -> None:
        # One file up to Redis 6, and a folder of several from 7 on.
        for file in self.folder.rglob("appendonly.aof*"):
            file.unlink()


class NatsServer(Server):
    scheme = "nats"

    def argv(self) -> list[str]:
        return [
            self.command,
            *("-a", "127.0.0.1", "-p", str(self.port), "-js", "-sd", str(self.folder / "store")),
        ]

    def answers(self) -> bool:
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            return connection.recv(100).startswith(b"INFO")

    def empty(self) -> None:
        shutil.rmtree(self.folder / "store")


class Way:
    """
    A way through which one connects to a server, and which can be slow, blocked or cut.

    Attributes:
        delay: Seconds that each piece of an answer takes longer.

        blocked: Whether what is sent vanishes, and connections do not end.
    """

    def __init__(self, port: int) -> None:
        self._to = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.delay = 0.0
        self.blocked = False
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self._to), timeout=5)
            except OSError:
                near.close()
                continue
            far.settimeout(None)
            self._open += (near, far)
            for one, other, slow in ((near, far, False), (far, near, True)):
                threading.Thread(target=self._pass, args=(one, other, slow), daemon=True).start()

    def _pass(self, one: socket.socket, other: socket.socket, slow: bool) -> None:
        with suppress(OSError):
            while data := one.recv(65536):
                if slow and self.delay:
                    time.sleep(self.delay)
                while self.blocked:
                    time.sleep(0.01)
                other.sendall(data if slow else self.passed(data))
                if not slow:
                    self.after(data)
        for end in (one, other):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def passed(self, data: bytes) -> bytes:
        """
        Return what goes on to the server of a piece that was sent to it.
        """
        return data

    def after(self, data: bytes) -> None:
        """
        Do what is to be done when it went on.
        """

    def cut(self) -> None:
        """
        Break all connections.
        """
        for end in self._open:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._open.clear()

    def close(self) -> None:
        self._listener.close()
        self.blocked = False
        self.cut()


def stop(server: Server) -> None:
    if server.process is not None:
        server.kill()
