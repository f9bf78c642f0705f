"""
What is particular to NATS JetStream.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import threading
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote

import pytest

pytest.importorskip("nats")

import nats
from nats.js.api import DiscardPolicy, StreamConfig
from nats.js.errors import APIError
from tests.forward.conftest import Log
from tests.forward.engines import Nats
from tests.forward.servers import NatsServer, Way

import harken
from harken.forward import (
    Forwarder,
    Position,
    RefusedError,
    UnavailableError,
    stored,
    target_of,
    to_message,
)
from harken.forward.nats import JetStream, subject_of

pytestmark = pytest.mark.once


@pytest.fixture
def engine() -> Nats:
    return Nats()


class Small(NatsServer):
    def argv(self) -> list[str]:
        config = self.folder / "nats.conf"
        config.write_text("max_payload: 4096\n")
        return [*super().argv(), "-c", str(config)]


def test_a_record_that_is_too_large(log: Log, server: NatsServer, tmp_path: Path) -> None:
    """
    The server takes less than a line may have: the record is rejected, and all others arrive.
    """
    small = Small(server.command, tmp_path / "small")
    small.start()
    try:
        log.write(3)
        log.write(1, text="x" * 6000)
        log.write(3)
        forwarder = Forwarder(log.path, JetStream(small.url))

        forwarder.run(once=True)

        arrived = [one.line for one in stored(small.url)]
    finally:
        small.kill()
    lines = log.lines
    (large,) = [line for line in lines if len(line) > 6000]
    rejected = json.loads((tmp_path / "forward-audit.jsonl.rejected.jsonl").read_text())
    assert (True, large.decode()) == (
        "the server takes 4096" in rejected["reason"],
        rejected["line"],
    )
    assert [line for line in lines if line != large] == arrived


def test_a_message_is_a_cloud_event(log: Log, server: NatsServer) -> None:
    """
    Its attributes are headers, and its payload is the line.
    """
    log.write(1)
    Forwarder(log.path, JetStream(server.url), source="/billing/host-7.example").run(once=True)

    async def last() -> tuple[dict[str, str], bytes]:
        client = await nats.connect(server.url)
        found = await client.jetstream().get_last_msg("HARKEN", "harken.billing.host-7_example")
        await client.close()
        return dict(found.headers or {}), found.data or b""

    headers, data = asyncio.run(last())
    record = json.loads(log.lines[-1])

    assert log.lines[-1] == data
    assert {
        "ce-specversion": "1.0",
        "ce-id": record["id"],
        "ce-source": "/billing/host-7.example",
        "ce-type": record["event_type"],
        "ce-time": record["timestamp"],
        "ce-sequence": f"{record['seq']:020d}",
        "ce-partitionkey": "/billing/host-7.example",
        "Nats-Msg-Id": f"1-{record['seq']}@/billing/host-7.example@{record['id']}",
        "Harken-After": f"1-{record['seq'] - 1}",
        "Harken-Whole": "0",
    } == {name: value for name, value in headers.items() if name != "ce-traceparent"}


def test_what_is_refused_while_later_ones_pass(
    log: Log, server: NatsServer, tmp_path: Path
) -> None:
    """
    The stream is too full for a large line, and takes the small ones behind it: the large one is
    sent when there is room, also by a forwarder that knows nothing of it, and nothing comes twice.
    """

    async def resize(size: int) -> None:
        config = StreamConfig(
            name="HARKEN",
            subjects=["harken.>"],
            max_bytes=size,
            discard=DiscardPolicy.NEW,
            # No help from the server with what is sent twice.
            duplicate_window=0.1,
        )
        async with await nats.connect(server.url) as client:
            context = client.jetstream()
            make = context.update_stream if made else context.add_stream
            await make(config)
        made.append(size)

    made: list[int] = []
    asyncio.run(resize(30_000))
    log.write(3)
    log.write(1, text="x" * 40_000)
    log.write(3)
    with pytest.raises(UnavailableError):
        Forwarder(log.path, JetStream(server.url)).run(once=True, patience=0.5)
    refused = [line for line in log.lines if len(line) > 40_000]
    others = [line for line in log.lines if len(line) < 40_000]
    before = [one.line for one in stored(server.url)]
    asyncio.run(resize(1_000_000))
    log.write(3)
    late = [line for line in log.lines if line not in {*refused, *others}]

    for _ in range(2):
        Forwarder(log.path, JetStream(server.url)).run(once=True, patience=5)

    assert others == before
    assert others + refused + late == [one.line for one in stored(server.url)]


def test_a_run_that_looks_like_a_header(log: Log, server: NatsServer) -> None:
    """
    What an application says is no header of its own, and every line arrives.
    """
    run = "one\r\nNats-Expected-Stream: OTHER\r\nce-id: \u00e9 100%"
    log.write(2)
    with harken.scope(run_id=run):
        log.write(1)
    log.write(2)

    Forwarder(log.path, JetStream(server.url), source="/k\u00f6ln/a%20b").run(once=True, patience=5)
    Forwarder(log.path, JetStream(server.url), source="/k\u00f6ln/a%20b").run(once=True, patience=5)

    async def subjects() -> list[str]:
        async with await nats.connect(server.url) as client:
            context = client.jetstream()
            count = (await context.stream_info("HARKEN")).state.messages
            found = [await context.get_msg("HARKEN", number + 1) for number in range(count)]
            return [(one.headers or {}).get("ce-subject", "") for one in found]

    arrived = list(stored(server.url))
    assert log.lines == [one.line for one in arrived]
    assert {"/k\u00f6ln/a%20b"} == {one.source for one in arrived}
    assert [run] == [unquote(one) for one in asyncio.run(subjects()) if one]


def test_two_sources_with_one_subject(log: Log, server: NatsServer, tmp_path: Path) -> None:
    """
    The second one is refused.
    """
    log.write(1)
    Forwarder(log.path, JetStream(server.url), source="/a.b").run(once=True)
    other = Log(tmp_path / "other.jsonl")
    other.write(1)
    other.bus.close()

    assert subject_of("harken", "/a.b") == subject_of("harken", "/a_b")
    with pytest.raises(RefusedError, match="give each log a source of its own"):
        Forwarder(other.path, target_of(server.url), source="/a_b").run()


class Guarded(NatsServer):
    def argv(self) -> list[str]:
        return [*super().argv(), "--user", "me", "--pass", "right"]


def test_a_wrong_password(log: Log, server: NatsServer, tmp_path: Path) -> None:
    """
    It ends the forwarder, and is not shown.
    """
    log.write(1)
    guarded = Guarded(server.command, tmp_path / "guarded")
    guarded.start()
    try:
        with pytest.raises(RefusedError, match="check user and permissions") as caught:
            Forwarder(log.path, JetStream(guarded.url.replace("//", "//me:wrong@"))).run()
    finally:
        guarded.kill()

    assert "wrong@" not in str(caught.value)


def test_an_encrypted_address_of_a_server_that_does_not_encrypt(
    log: Log, server: NatsServer
) -> None:
    """
    Nothing is sent, not even the password.
    """
    log.write(1)
    heard: list[bytes] = []

    class Overheard(Way):
        def passed(self, data: bytes) -> bytes:
            heard.append(data)
            return data

    way = Overheard(server.port)
    target = JetStream(f"tls://me:secret@127.0.0.1:{way.port}")
    try:
        with pytest.raises(RefusedError, match="does not encrypt"):
            Forwarder(log.path, target).run(once=True, patience=1)
    finally:
        way.close()

    assert [] == heard


def test_an_encrypted_address_of_a_server_that_does(
    log: Log, server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The log goes there when the certificate is trusted.
    """
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    argv = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=me"
    )
    argv += f" -addext subjectAltName=IP:127.0.0.1 -keyout {key} -out {certificate}"
    subprocess.run(argv.split(), check=True, capture_output=True)

    class Encrypting(NatsServer):
        def argv(self) -> list[str]:
            files = ["--tlscert", str(certificate), "--tlskey", str(key)]
            return [*super().argv(), "--tls", *files]

    encrypting = Encrypting(server.command, tmp_path / "encrypting")
    encrypting.start()
    log.write(3)
    target = JetStream(f"tls://127.0.0.1:{encrypting.port}", timeout=2.0)
    forwarder = Forwarder(log.path, target)
    try:
        with pytest.raises(UnavailableError):
            forwarder.run(once=True, patience=0)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        forwarder.run(once=True, patience=5)
    finally:
        encrypting.kill()

    assert len(log.lines) == forwarder.forwarded


def test_others_begin_while_the_stream_is_created(server: NatsServer) -> None:
    """
    Forwarders that ask what a stream holds while somebody is just creating it do the server no
    harm.
    """
    done = threading.Event()

    def begin(target: JetStream) -> None:
        while not done.is_set():
            with suppress(UnavailableError, RefusedError):
                target.open("/host")

    async def create() -> None:
        async with await nats.connect(server.url, allow_reconnect=False) as client:
            context = client.jetstream(timeout=60)
            for _ in range(300):
                # One of those who begin may have created it, or be doing so.
                with suppress(APIError):
                    await context.add_stream(name="HARKEN", subjects=["harken.>"])
                    await context.delete_stream("HARKEN")

    targets = [JetStream(server.url) for _ in range(2)]
    others = [threading.Thread(target=begin, args=(target,)) for target in targets]
    for other in others:
        other.start()
    try:
        asyncio.run(create())
    finally:
        done.set()
        for other in others:
            other.join()
        for target in targets:
            target.close()

    assert server.process is not None
    assert server.process.poll() is None


def test_two_logs_begin_with_one_source_at_once(
    log: Log, server: NatsServer, tmp_path: Path
) -> None:
    """
    That is a mistake, but no line of one is taken for a line of the other.
    """
    other = Log(tmp_path / "other.jsonl")
    targets = [JetStream(server.url), JetStream(server.url)]
    for target in targets:
        target.open("/same")
    lines = []
    for made, target in zip((log, other), targets, strict=True):
        made.write(3)
        lines += made.lines
        messages = [to_message(line, Position(1, seq)) for seq, line in enumerate(made.lines)]
        target.send(messages)
        target.close()
    other.bus.close()

    assert lines == [one.line for one in stored(server.url)]


def test_no_consumer_is_left_behind(log: Log, server: NatsServer) -> None:
    """
    What was asked through one does not burden the server, whether it held something or not.
    """
    log.write(3)

    async def consumers() -> list[object]:
        client = await nats.connect(server.url)
        try:
            return list(await client.jetstream().consumers_info("HARKEN"))
        finally:
            await client.close()

    left = []
    for _ in range(2):
        Forwarder(log.path, JetStream(server.url)).run(once=True)
        left.append(asyncio.run(consumers()))

    assert [[], []] == left
