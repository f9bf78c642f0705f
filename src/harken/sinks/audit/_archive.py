"""
Compressing the files of an audit log that nobody appends to any more.
"""

from __future__ import annotations

import fcntl
import os
import re
from contextlib import suppress
from hashlib import sha256
from importlib import import_module
from typing import Any

from harken.errors import SettingsError
from harken.sinks.audit._path import FILE_MODE, sync_folder

_ARCHIVE = re.compile(r"\.\d{8}T\d{6}Z-\d{10}(?:\.\d+)?")
_BLOCK = 1 << 20


def check_installed() -> None:
    """
    Make sure that there is something to compress with.

    Raises:
        SettingsError: There is not.
    """
    try:
        import_module("zstandard")
    except ImportError as error:
        raise SettingsError(
            "compress='zstd' needs the package zstandard; install harken[zstd]"
        ) from error


def compress_archives(path: str) -> None:
    """
    Replace each archive of the log at *path* by ``<archive>.zst``, all but the newest.

    The newest is what a new file may have to continue. An archive is removed once its compressed
    form was read back, is the same, and is on the disk. Several processes may do this at once.
    """
    folder, base = os.path.split(path)
    names = [
        name
        for name in os.listdir(folder)
        if name.startswith(base) and _ARCHIVE.fullmatch(name, len(base))
    ]
    for name in sorted(names, key=lambda name: name.rpartition("-")[2])[:-1]:
        with suppress(FileNotFoundError, BlockingIOError):
            _compress(os.path.join(folder, name))


def _compress(archive: str) -> None:
    zstandard = import_module("zstandard")
    with open(archive, "rb") as source:
        # One process does it; the others find it done, or go on.
        fcntl.flock(source, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.exists(archive):
            return
        partial, compressed = f"{archive}.zst.new", f"{archive}.zst"
        with suppress(FileNotFoundError):
            os.unlink(partial)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            with open(os.open(partial, flags, FILE_MODE), "r+b") as target:
                zstandard.ZstdCompressor().copy_stream(source, target)
                target.flush()
                os.fsync(target.fileno())
                source.seek(0)
                target.seek(0)
                with zstandard.ZstdDecompressor().stream_reader(target) as again:
                    if _digest(source) != _digest(again):
                        raise OSError(f"{partial!r} is not what was compressed")
            # As old as what is in it: which file is the newest can still be seen.
            found = os.fstat(source.fileno())
            os.utime(partial, ns=(found.st_atime_ns, found.st_mtime_ns))
            os.rename(partial, compressed)
        except OSError:
            # On a full disk every byte counts.
            with suppress(FileNotFoundError):
                os.unlink(partial)
            raise
        sync_folder(compressed)
        os.unlink(archive)


def _digest(stream: Any) -> bytes:
    digest = sha256()
    while block := stream.read(_BLOCK):
        digest.update(block)
    return digest.digest()
