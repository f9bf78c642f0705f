"""
What vouches for a checkpoint: a key that evolves with every seal, a signing key, or both.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import msgspec

from harken import JSON
from harken.errors import AuditKeyError
from harken.record import (
    GENESIS,
    KEY_SLOT,
    KeyState,
    evolved,
    from_key_slot,
    key_id_of,
    seal_message,
    seal_of,
    to_key_slot,
)
from harken.sinks.audit._descriptor import let_go, lock

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_FLAGS = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_MODE = 0o600

# Between two looks at the two places, somebody may have gone from one to the other.
_LOOKS = 5
# Seconds that a change of the key waits for another. That is rare: whoever changes it holds the
# lock of the log, and only while the log is being moved there are two files of it.
PATIENCE = 0.5

_BLANK = b" " * (KEY_SLOT - 1) + b"\n"


class Ratchet:
    """
    The key of the current epoch, in a file of its own; no earlier one can be found from it.

    The file has two places, so that a crash in the middle of a change leaves one of them whole.
    What is replaced is overwritten in place and synced. That is as far as a program can go: a
    disk or a file system that keeps old blocks keeps old keys.

    Args:
        path: A file that `create_key()` has made. One log, one key.

    Raises:
        AuditKeyError: The file cannot be used; the message says why.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.path.abspath(os.fsdecode(path))
        # The descriptor that holds the lock; -1 when none does.
        self._fd = -1
        try:
            self.state()
        except AuditKeyError:
            raise
        except OSError as error:
            raise AuditKeyError(
                f"audit key {self.path!r} cannot be used: {error.strerror}; make one with "
                "`harken keygen`, or name another file",
                self.path,
            ) from error

    def state(self) -> KeyState:
        """
        Return what the file holds.
        """
        fd = os.open(self.path, _FLAGS)
        try:
            return _read(fd, self.path)
        finally:
            os.close(fd)

    @contextmanager
    def locked(self, patience: float = PATIENCE) -> Generator[int]:
        """
        Keep others from changing the file, after waiting for them for at most *patience* seconds.

        May be entered again from within. Whoever needs the lock of the log, too, takes that first.

        Raises:
            TimeoutError: Somebody else held the file all the time.
        """
        if self._fd >= 0:
            yield self._fd
            return
        fd = os.open(self.path, _FLAGS)
        try:
            lock(fd, patience)
            self._fd = fd
            yield fd
        finally:
            self._fd = -1
            let_go(fd)

    def abandon(self) -> None:
        """
        Close what a forked child inherited. Letting the lock go would free the parent's.
        """
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def seal(self, checkpoint: dict[str, JSON], signer: Signer | None = None) -> dict[str, JSON]:
        """
        Return *checkpoint* with the seal of this epoch, and go on to the next one.

        The new key is on the disk, and the old one is not, when this returns.
        """
        with self.locked() as fd:
            state = _read(fd, self.path)
            key = bytes.fromhex(state.key)
            message = seal_message(epoch=state.epoch, **checkpoint)
            sealed = {
                **checkpoint,
                "epoch": state.epoch,
                "key_id": state.key_id,
                "mac": seal_of(key, message),
            }
            if signer is not None:
                sealed |= signer.sign(message)
            _replace(
                fd,
                msgspec.structs.replace(
                    state,
                    generation=state.generation + 1,
                    epoch=state.epoch + 1,
                    key=evolved(key).hex(),
                    pending=sealed,
                    seq=checkpoint["count"],
                    head=checkpoint["head"],
                    ended=False,
                ),
            )
            return sealed

    def written(self, seq: int, head: str) -> None:
        """
        Note that the checkpoint that was pending is in the log, which has a line *seq* with the
        hash *head*.
        """
        self._change(pending=None, seq=seq, head=head)

    def ended(self, seq: int, head: str) -> None:
        """
        Note that the writer leaves a log which ends with the line *seq*, with the hash *head*.
        """
        self._change(seq=seq, head=head, ended=True)

    def returned(self) -> None:
        """
        Note that the log goes on behind the line with which a writer had left it.
        """
        if self.state().ended:
            self._change(ended=False)

    def _change(self, **changes: Any) -> None:
        with self.locked() as fd:
            state = _read(fd, self.path)
            _replace(fd, msgspec.structs.replace(state, generation=state.generation + 1, **changes))


class Signer:
    """
    An Ed25519 key (RFC 8032): whoever has the public half can check, and nobody else can sign.

    Args:
        path: A PEM file with the private key, for the owner alone.

    Raises:
        AuditKeyError: The file cannot be used, or ``harken[sign]`` is not installed.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.path.abspath(os.fsdecode(path))
        self._key = _private_key(self.path)
        self.key_id = key_id_of(self._key.public_key().public_bytes_raw())

    def sign(self, message: bytes) -> dict[str, JSON]:
        """
        Return what a checkpoint says of its signature.
        """
        return {"signing_key_id": self.key_id, "signature": self._key.sign(message).hex()}


class Sealer:
    """
    Makes the ``metadata`` of checkpoints; without any key they only say how far the log was.
    """

    def __init__(self, ratchet: Ratchet | None, signer: Signer | None) -> None:
        self.has_key = ratchet is not None or signer is not None
        self._ratchet = ratchet
        self._signer = signer

    def locked(self, patience: float = PATIENCE) -> AbstractContextManager[int | None]:
        """
        Keep others from changing the key; see `Ratchet.locked()`.
        """
        return nullcontext() if self._ratchet is None else self._ratchet.locked(patience)

    def abandon(self) -> None:
        """
        Let go of what a forked child inherited.
        """
        if self._ratchet is not None:
            self._ratchet.abandon()

    def pending(self) -> dict[str, JSON] | None:
        """
        Return a checkpoint that has to be written before the next one is made.
        """
        return None if self._ratchet is None else self._ratchet.state().pending

    def known(self) -> tuple[int, str, bool]:
        """
        Return the number and the hash of the last line that was in the log for sure, and whether
        there may have been more behind it.
        """
        if self._ratchet is None:
            return 0, GENESIS, False
        state = self._ratchet.state()
        return state.seq, state.head, not state.ended

    def seal(self, *, count: int, head: str, segment: int, mono_ns: int) -> dict[str, JSON]:
        """
        Return the ``metadata`` of the next checkpoint.

        Raises:
            OSError: The key cannot be replaced; there is no checkpoint.
        """
        checkpoint: dict[str, JSON] = {
            "count": count,
            "head": head,
            "segment": segment,
            "mono_ns": mono_ns,
        }
        if self._ratchet is not None:
            return self._ratchet.seal(checkpoint, self._signer)
        if self._signer is not None:
            checkpoint |= self._signer.sign(seal_message(epoch=None, **checkpoint))
        return checkpoint

    def written(self, seq: int, head: str) -> None:
        """
        Note that the last checkpoint is in the log, and that the log ends with the line *seq*.
        """
        if self._ratchet is not None:
            self._ratchet.written(seq, head)

    def ended(self, seq: int, head: str) -> None:
        """
        Note that the writer leaves the log, which ends with the line *seq*.
        """
        if self._ratchet is not None:
            self._ratchet.ended(seq, head)

    def returned(self) -> None:
        """
        Note that the log goes on.
        """
        if self._ratchet is not None:
            self._ratchet.returned()


def create_key(path: str | os.PathLike[str]) -> str:
    """
    Make a key file for `AuditLog`, and return its first key in hex.

    Whoever has the first key can check every seal, and make any. It is nowhere else once the
    first checkpoint is written: keep it off the machine.

    Raises:
        AuditKeyError: The file exists already, or cannot be made.
    """
    name = os.path.abspath(os.fsdecode(path))
    key = os.urandom(32)
    first = KeyState(1, key_id_of(key), 0, key.hex())
    _make(name, to_key_slot(first) + _BLANK)
    return key.hex()


def create_signing_key(path: str | os.PathLike[str]) -> str:
    """
    Make an Ed25519 key file for `AuditLog`, and return its public key as PEM.

    Raises:
        AuditKeyError: The file exists already, or cannot be made; or ``harken[sign]`` is not
            installed.
    """
    name = os.path.abspath(os.fsdecode(path))
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    except ImportError as error:
        raise _no_library(name) from error
    key = Ed25519PrivateKey.generate()
    _make(
        name,
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return public.decode()


def _private_key(path: str) -> Ed25519PrivateKey:
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    except ImportError as error:
        raise _no_library(path) from error
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(fd, "rb") as file:
            _check_owner(fd, path)
            key = serialization.load_pem_private_key(file.read(), password=None)
    except OSError as error:
        if isinstance(error, AuditKeyError):
            raise
        raise AuditKeyError(
            f"audit signing key {path!r} cannot be read: {error.strerror}; make one with "
            "`harken keygen --signing`",
            path,
        ) from error
    except (ValueError, TypeError) as error:
        raise AuditKeyError(
            f"audit signing key {path!r} is no PEM file without password: {error}", path
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise AuditKeyError(f"audit signing key {path!r} is not an Ed25519 key", path)
    return key


def _no_library(path: str) -> AuditKeyError:
    return AuditKeyError(
        f"audit signing key {path!r} needs the package cryptography; install harken[sign]", path
    )


def _check_owner(fd: int, path: str) -> None:
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        raise AuditKeyError(f"audit key {path!r} is not a regular file", path)
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise AuditKeyError(
            f"audit key {path!r} can be read by others than its owner; run chmod 600", path
        )


def _make(path: str, content: bytes) -> None:
    try:
        fd = os.open(path, _FLAGS | os.O_CREAT | os.O_EXCL, _MODE)
    except OSError as error:
        raise _not_made(path, error) from error
    try:
        _write_at(fd, content, 0)
    except OSError as error:
        os.unlink(path)
        raise _not_made(path, error) from error
    finally:
        os.close(fd)


def _not_made(path: str, error: OSError) -> AuditKeyError:
    hint = "choose another path"
    if error.errno == errno.EEXIST:
        hint = "name a new file; a key is never replaced"
    return AuditKeyError(f"audit key {path!r} cannot be made: {error.strerror}; {hint}", path)


def _read(fd: int, path: str) -> KeyState:
    _check_owner(fd, path)
    states: list[KeyState] = []
    for _ in range(_LOOKS):
        found = [from_key_slot(os.pread(fd, KEY_SLOT, at)) for at in (0, KEY_SLOT)]
        states = sorted((one for one in found if one is not None), key=lambda one: one.generation)
        if states:
            break
    if not states:
        raise AuditKeyError(
            f"audit key {path!r} holds no key; make one with `harken keygen`, or name another file",
            path,
        )
    return states[-1]


def _replace(fd: int, state: KeyState) -> None:
    """
    Put *state* beside the one before it, and then wipe that.
    """
    place = KEY_SLOT * (state.generation % 2 ^ 1)
    _write_at(fd, to_key_slot(state), place)
    _write_at(fd, _BLANK, KEY_SLOT - place)


def _write_at(fd: int, data: bytes, place: int) -> None:
    if os.pwrite(fd, data, place) != len(data):
        # A file that may not grow takes a part of it first.
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.fsync(fd)
