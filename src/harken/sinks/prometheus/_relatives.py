"""
Who holds a port: told over HTTP, so that a process knows its own kind from somebody else.
"""

from __future__ import annotations

import hashlib
import os
import sys
from http.client import HTTPConnection, HTTPException
from ipaddress import ip_address
from multiprocessing import parent_process
from typing import NamedTuple

HEADER = "Harken-Process"
"""The header by which a process of this machine is told who answers."""

PATIENCE = 3.0
"""Seconds that whoever holds a port may be silent before it counts as somebody else."""


class Process(NamedTuple):
    """
    What one process says about itself.

    Attributes:
        parents:
            The process that started it, and the one that wanted it; `multiprocessing` has a
            server between the two where it is asked for.

        home: Where its numbers are valid: two containers may have a process of the same number.

        program: The same for all workers of a program, and for nobody else.
    """

    pid: int
    parents: frozenset[int]
    home: str
    program: str

    def to_header(self) -> str:
        """
        Return the value of `HEADER`.
        """
        parents = ",".join(map(str, sorted(self.parents)))
        return f"{self.pid} {parents} {self.home} {self.program}"

    def is_relative_of(self, other: Process) -> bool:
        """
        Whether *other* is this process's parent, or another child of it with the same program.
        """
        if self.home != other.home or self.pid == other.pid:
            return False
        # Init is the parent of many, and so is a shell: siblings are of one program.
        same_program = self.program == other.program
        return other.pid in self.parents or (
            same_program and not self.parents.isdisjoint(other.parents)
        )


def this_process() -> Process:
    """
    Return what the calling process says about itself.
    """
    wanted_by = parent_process()
    parents = {os.getppid()} | ({wanted_by.pid} if wanted_by and wanted_by.pid else set[int]())
    # A child of multiprocessing has a command line of its own, but its parent's arguments.
    command = sys.orig_argv if wanted_by is None else sys.argv
    session = os.getsid(0) if sys.platform != "win32" else 0
    text = "\0".join([str(session), sys.executable, *command])
    program = hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()
    return Process(os.getpid(), frozenset(parents), _home(), program)


def holder_of(address: str, port: int) -> Process | None:
    """
    Ask whoever serves *port* who it is; None when it does not say.

    Raises:
        ConnectionRefusedError: Nobody serves it.

        OSError: There is no answer.
    """
    connection = HTTPConnection(_reachable(address), port, timeout=PATIENCE)
    try:
        connection.request("GET", "/")
        return _parse(connection.getresponse().getheader(HEADER, ""))
    except HTTPException:
        return None
    finally:
        connection.close()


def _reachable(address: str) -> str:
    """
    Return *address*, or this machine's own where it means every address.
    """
    try:
        every = not address or ip_address(address).is_unspecified
    except ValueError:
        # A host name.
        return address
    if not every:
        return address
    return "::1" if ":" in address else "127.0.0.1"


def _parse(said: str) -> Process | None:
    try:
        pid, parents, home, program = said.split(" ")
        return Process(int(pid), frozenset(map(int, parents.split(","))), home, program)
    except ValueError:
        return None


def _home() -> str:
    try:
        return str(os.stat("/proc/self/ns/pid").st_ino)
    except OSError:
        return "-"
