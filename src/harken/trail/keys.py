"""
What seals are checked with: the first key of a ratchet, a public key, and the key file of a writer.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable

import msgspec

from harken.record import from_key_slot, key_id_of
from harken.trail.files import TrailError

_LARGEST = 65_536

_HEX_KEY = re.compile(rb"\s*([0-9a-fA-F]{64})\s*")


class Key(msgspec.Struct, frozen=True):
    """
    The first key of a ratchet, from which those of all epochs follow.
    """

    id: str
    secret: bytes

    def __repr__(self) -> str:
        return f"<Key {self.id}>"


class PublicKey(msgspec.Struct, frozen=True):
    """
    The public half of an Ed25519 key.

    Attributes:
        verify: Whether a signature is that of a message.
    """

    id: str
    verify: Callable[[bytes, bytes], bool]


class WriterState(msgspec.Struct, frozen=True):
    """
    What the key file of a writer says.

    Attributes:
        epoch: The epoch whose seal is the next one.

        secret: The key of that epoch.

        pending: Whether the last seal may not be in the log yet.

        seq: The number of the last line that was in the log for sure; 0 for none.

        head: Its hash.

        ended: Whether its writer left no line behind that one.
    """

    path: str
    key_id: str
    epoch: int
    secret: bytes
    pending: bool
    seq: int
    head: str
    ended: bool


def read_key(path: str | os.PathLike[str]) -> Key:
    """
    Return the key that `harken keygen` printed: 64 hex digits in a file.

    Raises:
        TrailError: The file cannot be read, or holds something else.
    """
    name = os.fsdecode(path)
    match = _HEX_KEY.fullmatch(_content(name))
    if match is None:
        raise TrailError(
            f"{name} holds no key; it is one line of 64 hex digits, as `harken keygen` printed it"
        )
    secret = bytes.fromhex(match[1].decode())
    return Key(key_id_of(secret), secret)


def read_public_key(path: str | os.PathLike[str]) -> PublicKey:
    """
    Return the Ed25519 public key in a PEM file, or of 64 hex digits.

    Raises:
        TrailError: The file cannot be read, or holds something else; or the package cryptography
            is not installed.
    """
    name = os.fsdecode(path)
    content = _content(name)
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
    except ImportError as error:
        raise TrailError(
            f"{name} can be used only with the package cryptography; install harken[sign]"
        ) from error
    match = _HEX_KEY.fullmatch(content)
    try:
        if match is not None:
            key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(match[1].decode()))
        else:
            loaded = load_pem_public_key(content)
            if not isinstance(loaded, Ed25519PublicKey):
                raise TrailError(f"{name} is not an Ed25519 public key")
            key = loaded
    except ValueError as error:
        raise TrailError(
            f"{name} holds no public key; it is a PEM file, as `harken keygen --signing` printed it"
        ) from error

    def verify(signature: bytes, message: bytes) -> bool:
        try:
            key.verify(signature, message)
        except InvalidSignature:
            return False
        return True

    return PublicKey(key_id_of(key.public_bytes_raw()), verify)


def read_state(path: str | os.PathLike[str]) -> WriterState:
    """
    Return what the key file of a writer says about how far its log is sealed.

    Raises:
        TrailError: The file cannot be read, or is no such file.
    """
    name = os.fsdecode(path)
    lines = _content(name).split(b"\n")
    slots = [slot for line in lines if (slot := from_key_slot(line)) is not None]
    if not slots:
        raise TrailError(f"{name} is no key file of a writer; name the one that the agent uses")
    last = max(slots, key=lambda slot: slot.generation)
    try:
        secret = bytes.fromhex(last.key)
    except ValueError as error:
        raise TrailError(f"{name} is no key file of a writer: {error}") from error
    return WriterState(
        path=name,
        key_id=last.key_id,
        epoch=last.epoch,
        secret=secret,
        pending=last.pending is not None,
        seq=last.seq,
        head=last.head,
        ended=last.ended,
    )


def _content(name: str) -> bytes:
    try:
        with open(name, "rb") as file:
            return file.read(_LARGEST)
    except OSError as error:
        raise TrailError(f"{name} cannot be read: {error.strerror}") from error
