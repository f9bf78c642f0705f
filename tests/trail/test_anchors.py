"""
Anchors, keys and key files, as they are read.
"""

from __future__ import annotations

import json
import sys
from hashlib import sha256
from pathlib import Path

import pytest
from tests.trail.logs import found, lines_of, put, rewritten, write_log

import harken.trail.anchors
from harken.record import key_id_of
from harken.sinks.audit import create_key
from harken.trail import (
    Anchor,
    TrailError,
    head_of,
    read_anchors,
    read_key,
    read_public_key,
    read_state,
    verify,
)
from harken.trail.files import digest_of_path

A, B, C = "a" * 64, "b" * 64, "c" * 64


def checkpoint(count: int, head: str, log: str | None = None, **more: object) -> str:
    data = {"seq": count + 1, "count": count, "head": head, "path_digest": log, **more}
    return json.dumps({"event_name": "harken.audit_checkpoint", "data": data})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "anchors"


class TestAnchors:
    def test_every_form(self, path: Path) -> None:
        """
        Heads in one line, in JSON and in a log of events are found among whatever else is there.
        """
        path.write_text(
            "\n".join(
                [
                    "# heads of the audit log",
                    f"7 {A}",
                    f"  8\t{A.upper()}  ",
                    json.dumps({"path": "audit.jsonl", "seq": 9, "hash": B, "timestamp": "x"}),
                    checkpoint(10, C),
                    json.dumps({"event_name": "harken.audit_checkpoint", "count": 11, "head": C}),
                    json.dumps(
                        {"event_name": "harken.audit_checkpoint", "count": 12, "seq": 13, "head": C}
                    ),
                    json.dumps({"event_name": "tool.started", "seq": 5, "hash": A}),
                    json.dumps({"seq": 5}),
                    json.dumps({"seq": "5", "hash": A}),
                    json.dumps({"seq": 0, "hash": A}),
                    json.dumps({"seq": 5, "hash": "short"}),
                    '{"seq":',
                    "",
                    "\ufeff",
                    "0 " + A,
                    "x" * (3 << 20) + f" 3 {A}",
                    f"14 {A}",
                ]
            )
        )

        anchors = read_anchors([path], "audit.jsonl")

        assert [
            (7, A, 2),
            (8, A, 3),
            (9, B, 4),
            (10, C, 5),
            (12, C, 7),
            (14, A, 18),
        ] == [(one.seq, one.hash, one.line) for one in anchors]
        assert {str(path)} == {one.file for one in anchors}

    @pytest.mark.parametrize("content", ["", "hello\n", '{"seq":3}\n'])
    def test_none(self, path: Path, content: str) -> None:
        """
        A file without any anchor is a mistake, and no proof.
        """
        path.write_text(content)

        with pytest.raises(TrailError, match=r"has no anchor; it takes"):
            read_anchors([path], "audit.jsonl")

    def test_unreadable(self, path: Path) -> None:
        """
        So is a file that is not there.
        """
        with pytest.raises(TrailError, match="cannot be read: No such file"):
            read_anchors([path], "audit.jsonl")

    def test_several_logs(self, path: Path) -> None:
        """
        In a log of events about several audit logs, those of this one are known by its path.
        """
        mine = digest_of_path("audit.jsonl")
        path.write_text("\n".join([checkpoint(1, A, mine), checkpoint(1, B, "sha256:0"), f"2 {C}"]))

        anchors = read_anchors([path], "audit.jsonl")

        assert {(1, A), (2, C)} == {(one.seq, one.hash) for one in anchors}

    def test_another_path(self, path: Path) -> None:
        """
        On another machine the path may be another one; which log is meant must be clear then.
        """
        path.write_text(checkpoint(1, A, "sha256:0"))
        assert [(1, A)] == [(one.seq, one.hash) for one in read_anchors([path], "audit.jsonl")]

        path.write_text("\n".join([checkpoint(1, A, "sha256:0"), checkpoint(1, B, "sha256:1")]))
        with pytest.raises(TrailError, match="are those of 2 logs"):
            read_anchors([path], "audit.jsonl")

    def test_many(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        Of very many the last one is kept, and some of the others.
        """
        monkeypatch.setattr(harken.trail.anchors, "MAX_ANCHORS", 10)
        path.write_text("".join(f"{number} {A}\n" for number in range(1, 1000)))

        anchors = read_anchors([path], "audit.jsonl")

        assert (True, 999) == (len(anchors) <= 11, max(one.seq for one in anchors))

    def test_of_several_files(self, path: Path, tmp_path: Path) -> None:
        """
        Anchors that stand there twice count once.
        """
        path.write_text(f"1 {A}\n2 {B}\n")
        other = tmp_path / "others"
        other.write_text(f"2 {B}\n3 {C}\n")

        anchors = read_anchors([path, other], "audit.jsonl")

        assert [1, 2, 3] == sorted(one.seq for one in anchors)


class TestKeys:
    def test_key(self, tmp_path: Path) -> None:
        """
        The first key is what was printed, with or without white space around it.
        """
        (tmp_path / "key").write_text("\n " + "AB" * 32 + " \n")

        key = read_key(tmp_path / "key")

        assert (bytes([0xAB] * 32), key_id_of(bytes([0xAB] * 32))) == (key.secret, key.id)
        assert f"<Key {key.id}>" == repr(key)

    @pytest.mark.parametrize("content", [b"", b"ab" * 31, b"ab" * 33, b"zz" * 32, bytes(100_000)])
    def test_no_key(self, tmp_path: Path, content: bytes) -> None:
        """
        Anything else is refused, and not shown.
        """
        (tmp_path / "key").write_bytes(content)

        with pytest.raises(TrailError, match="holds no key; it is one line of 64 hex digits"):
            read_key(tmp_path / "key")

    def test_state(self, tmp_path: Path) -> None:
        """
        The key file of an agent says how many seals it has made, and where it left the log.
        """
        agent = tmp_path / "agent.key"
        first = create_key(agent)
        before = read_state(agent)
        write_log(tmp_path / "audit.jsonl", key=agent)

        after = read_state(agent)

        assert (0, bytes.fromhex(first), False) == (before.epoch, before.secret, before.pending)
        assert (1, before.key_id, False) == (after.epoch, after.key_id, after.pending)
        head = head_of(tmp_path / "audit.jsonl")
        assert (0, False) == (before.seq, before.ended)
        assert (head.seq, head.hash, True) == (after.seq, after.head, after.ended)

    def test_state_of_a_writer_that_died(self, tmp_path: Path) -> None:
        """
        A writer that died between the seal and the log leaves a seal that may not be there.
        """
        older, newer = (
            json.dumps(
                {
                    "generation": generation,
                    "key_id": "x",
                    "epoch": generation,
                    "key": "ab" * 32,
                    "pending": {"count": 3, "epoch": 2, "key_id": None},
                }
            ).encode()
            for generation in (2, 3)
        )
        (tmp_path / "state").write_bytes(
            b"".join(
                sha256(body).hexdigest().encode() + b" " + body.ljust(1982) + b"\n"
                for body in (newer, older)
            )
        )

        state = read_state(tmp_path / "state")

        assert (3, True) == (state.epoch, state.pending)

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"hello\n",
            b"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 \n",
            b'fb41edd3ec9ebc1bd4e7e3f73ce3c6cb9f7c8e9ea7f1a2f0c3d4a5b6c7d8e9f0 {"epoch":1}\n',
        ],
    )
    def test_no_state(self, tmp_path: Path, content: bytes) -> None:
        """
        Anything else is refused.
        """
        (tmp_path / "state").write_bytes(content)

        with pytest.raises(TrailError, match="is no key file of a writer"):
            read_state(tmp_path / "state")

    def test_state_with_a_broken_key(self, tmp_path: Path) -> None:
        """
        So is one whose key is none.
        """
        body = b'{"generation":1,"key_id":"x","epoch":1,"key":"zz"}'
        (tmp_path / "state").write_bytes(sha256(body).hexdigest().encode() + b" " + body + b"\n")

        with pytest.raises(TrailError, match="is no key file of a writer"):
            read_state(tmp_path / "state")


class TestSignatures:
    @pytest.fixture(autouse=True)
    def library(self) -> None:
        pytest.importorskip("cryptography", reason="needs harken[sign]")

    @pytest.fixture
    def log(self, tmp_path: Path) -> Path:
        from harken.sinks.audit import create_signing_key

        path = tmp_path / "audit.jsonl"
        (tmp_path / "public.pem").write_text(create_signing_key(tmp_path / "sign.pem"))
        write_log(path, signing_key=tmp_path / "sign.pem")
        return path

    def test_signed_log(self, log: Path) -> None:
        """
        A log that was signed is verified with the public key; that it has all of its end, with an
        anchor.
        """
        key = read_public_key(log.with_name("public.pem"))
        head = head_of(log)

        report = verify(log, public_keys=[key], anchors=[Anchor(head.seq, head.hash, "heads", 1)])
        without = verify(log, public_keys=[key])

        assert (0, (), "1 checkpoint, 0 sealed, 1 signed; 1 signatures verified") == (
            report.exit_code,
            report.findings,
            report.seals.message,
        )
        assert (3, ["end"]) == (without.exit_code, [one.kind for one in without.findings])

    def test_public_key_in_hex(self, log: Path) -> None:
        """
        The public key may also be given as 64 hex digits.
        """
        from cryptography.hazmat.primitives.serialization import load_pem_public_key

        pem = log.with_name("public.pem")
        loaded = load_pem_public_key(pem.read_bytes())
        log.with_name("public.hex").write_text(loaded.public_bytes_raw().hex())

        assert read_public_key(pem).id == read_public_key(log.with_name("public.hex")).id

    def test_rewritten(self, log: Path) -> None:
        """
        Nobody else can sign a log that was rewritten.
        """
        key = read_public_key(log.with_name("public.pem"))
        lines = lines_of(log)
        data = json.loads(lines[11])["metadata"]
        signature = data["signature"]
        for change in (signature[:-1] + ("0" if signature[-1] != "0" else "1"), "nothing"):
            changed = lines[11].replace(signature.encode(), change.encode())
            put(log, rewritten([*lines[:11], changed, lines[12]]))

            report = verify(log, public_keys=[key])

            assert [("signature", "audit.jsonl", 12)] == found(report, "tampered")

    def test_unsigned(self, log: Path) -> None:
        """
        A log that ended cleanly without a signature was never signed, or not by this key.
        """
        key = read_public_key(log.with_name("public.pem"))
        write_log(log.with_name("other.jsonl"))

        report = verify(log.with_name("other.jsonl"), public_keys=[key])

        assert [("no_seal", "other.jsonl", 13)] == found(report, "tampered")

    def test_wrong_key(self, log: Path, tmp_path: Path) -> None:
        """
        With another public key nothing can be said.
        """
        from harken.sinks.audit import create_signing_key

        (tmp_path / "other.pem").write_text(create_signing_key(tmp_path / "other.key"))
        key = read_public_key(tmp_path / "other.pem")

        report = verify(log, public_keys=[key])

        assert (2, [("key", "audit.jsonl", 12)]) == (report.exit_code, found(report))

    @pytest.mark.parametrize("kind", ["text", "another kind of key"])
    def test_no_public_key(self, tmp_path: Path, kind: str) -> None:
        """
        What is no Ed25519 key is refused.
        """
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        public = X25519PrivateKey.generate().public_key()
        pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        (tmp_path / "key").write_bytes(b"hello" if kind == "text" else pem)

        with pytest.raises(TrailError, match=r"holds no public key|is not an Ed25519 public key"):
            read_public_key(tmp_path / "key")


def test_without_cryptography(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Without the package the message says what to install.
    """
    (tmp_path / "key").write_text("ab" * 32)
    monkeypatch.setitem(sys.modules, "cryptography.exceptions", None)

    with pytest.raises(TrailError, match=r"install harken\[sign\]"):
        read_public_key(tmp_path / "key")
