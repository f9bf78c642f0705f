"""
Opening an audit file: what is accepted at its path, and what to say when something is not.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from contextlib import suppress

from harken.errors import AuditPathError

FILE_MODE = 0o600
FOLDER_MODE = 0o700

# A FIFO would block without O_NONBLOCK, and a terminal become ours without O_NOCTTY.
FLAGS = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY

# File systems on which processes of several machines may append, and no lock keeps them apart
# for sure; names as in /proc/self/mountinfo. fuse.* may be anything.
_NETWORK = re.compile(
    r"nfs\d?|cifs|smb\w*|9p|afs|ceph|coda|gfs2?|glusterfs|lustre|ncpfs|ocfs2|orangefs|virtiofs"
    r"|fuse\.(?!fuse-overlayfs)\S+"
)

# What a log begins with, any digit being 0. A crash may have left a part of it; other JSON logs
# have a time in another form, or something else behind it.
_BEGINNING = b'{"timestamp":"0000-00-00T00:00:00.000000Z","seq":'
_ANY_DIGIT = bytes.maketrans(b"123456789", b"000000000")


def open_log(path: str) -> int:
    """
    Open the audit file at *path*; make it, and the folder it is in, where they are missing.

    Returns:
        A descriptor for reading and appending.

    Raises:
        AuditPathError: Something else than an audit file stands there; it was left alone.

        OSError: The system refused; see `explained()`.
    """
    if "\0" in path:
        raise AuditPathError(_refusal(path, "it has a null byte in it; choose another path"), path)
    try:
        fd = os.open(path, FLAGS | os.O_CREAT, FILE_MODE)
    except FileNotFoundError:
        _make_folder(os.path.dirname(path))
        fd = os.open(path, FLAGS | os.O_CREAT, FILE_MODE)
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise AuditPathError(_refusal(path, _NOT_REGULAR), path)
        # What a crashed machine left may begin with zeros; that is recorded, not refused.
        begin = os.pread(fd, len(_BEGINNING), 0).lstrip(b"\0")
        if not _BEGINNING.startswith(begin.translate(_ANY_DIGIT)):
            raise AuditPathError(
                _refusal(path, "it holds something else than an audit log; choose another path"),
                path,
            )
        if stat.S_IMODE(found.st_mode) != FILE_MODE:
            # Whoever made the file for us to append to keeps their choice of who may read it.
            with suppress(PermissionError):
                os.fchmod(fd, FILE_MODE)
    except BaseException:
        os.close(fd)
        raise
    return fd


def dangers(path: str) -> list[str]:
    """
    Return what speaks against keeping the log at *path*, in sentences.
    """
    found = []
    folder = os.path.dirname(path)
    mode = os.stat(folder).st_mode
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        found.append(
            f"anybody may write into {folder!r}, and so replace the audit log there; run chmod o-w"
        )
    kind = file_system_of(folder)
    if kind is not None and _NETWORK.fullmatch(kind):
        found.append(
            f"the audit log {path!r} is on a network file system ({kind}), which promises neither "
            "whole lines nor locks between machines; keep it on a local disk"
        )
    return found


def file_system_of(folder: str, mounts: str = "/proc/self/mountinfo") -> str | None:
    """
    Return the type of the file system that *folder* is on; None where the system does not say.

    Args:
        mounts: A list of mounts as proc_pid_mountinfo(5) describes it.
    """
    device = os.stat(folder).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        with open(mounts, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                mount, _, kind = line.partition(" - ")
                if mount.split()[2] == wanted:
                    return kind.split()[0]
    except OSError:
        return None
    return None


def sync_folder(path: str) -> None:
    """
    Make sure that the name *path* itself survives a loss of power.
    """
    fd = os.open(os.path.dirname(path), os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def explained(error: OSError, path: str) -> AuditPathError:
    """
    Return the error that says what to do about *error*.
    """
    if isinstance(error, AuditPathError):
        return error
    return AuditPathError(_refusal(path, _remedy(error, path)), path)


_NOT_REGULAR = "it is not a regular file; choose another path"


def _refusal(path: str, why: str) -> str:
    return f"audit log {path!r} cannot be opened: {why}"


def _remedy(error: OSError, path: str) -> str:
    folder = os.path.dirname(path)
    user = f"user {os.geteuid()}"
    if error.errno in {errno.EACCES, errno.EPERM}:
        if os.path.lexists(path):
            return f"{user} may not read and write it; change its owner, or choose another path"
        return f"{user} may not make files in {folder!r}; change that, or choose another path"
    remedies = {
        errno.EISDIR: f"it is a folder; name a file in it, such as {path + '/audit.jsonl'!r}",
        errno.ELOOP: f"it is a symbolic link; give the path behind it, {os.path.realpath(path)!r}",
        errno.ENOTDIR: "a part of the path is not a folder; choose another path",
        errno.ENXIO: _NOT_REGULAR,
        errno.EROFS: "the file system is read-only; choose another path",
        errno.ENOSPC: "the disk is full; free some space, or choose another path",
        errno.ETIMEDOUT: "another process holds its lock; end it if it hangs, or wait longer",
    }
    return remedies.get(error.errno or 0, f"{error.strerror or error}; choose another path")


def _make_folder(folder: str) -> None:
    parent = os.path.dirname(folder)
    if not os.path.isdir(parent):
        _make_folder(parent)
    with suppress(FileExistsError):
        os.mkdir(folder, FOLDER_MODE)
