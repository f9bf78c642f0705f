"""
The demo's tools: they read, search and change real files, and run real programs.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Literal, NamedTuple

import harken
from harken import JSON, Bus
from harken.catalog import CommandStarted, ResourceModified

AGENT = "agent:bookkeeper"
"""Who does all this."""

# Isolated, without site-packages: the programs of the demo need neither, and start faster. Without
# bytecode: it would outlive a change of the same size within the same second.
PYTHON = (sys.executable, "-I", "-S", "-B")


class Ruling(NamedTuple):
    """
    What the policy says about a call.
    """

    decision: Literal["allow", "escalate", "deny"]
    rule: str
    reason: str


def ruling_on(tool: str, arguments: Mapping[str, JSON]) -> Ruling:
    """
    Ask the policy whether *tool* may be called.
    """
    if tool == "run_command" and arguments["argv"][0] == "rm":
        return Ruling("deny", "keep-the-books", "nothing is ever deleted")
    if tool == "write_file":
        return Ruling("escalate", "ask-before-writing", "a person decides what is written")
    return Ruling("allow", "default", "")


class Tools:
    """
    What the agent can do in *folder*; the tools may be called from several threads at once.
    """

    def __init__(self, bus: Bus, folder: Path) -> None:
        self._bus = bus
        self._folder = folder
        self._by_name: Mapping[str, Callable[..., JSON]] = {
            "read_file": self.read_file,
            "search": self.search,
            "write_file": self.write_file,
            "run_command": self.run_command,
            "open_pull_request": self.open_pull_request,
        }

    @property
    def names(self) -> tuple[str, ...]:
        """
        The names of all tools.
        """
        return tuple(self._by_name)

    def __getitem__(self, name: str) -> Callable[..., JSON]:
        return self._by_name[name]

    def read_file(self, path: str) -> str:
        """
        Return the text of a file.
        """
        return (self._folder / path).read_text(encoding="utf-8")

    def search(self, pattern: str) -> list[str]:
        """
        Return every line of every file that *pattern* is found in, as ``path:number``.
        """
        found: list[str] = []
        for path in sorted(self._folder.rglob("*")):
            if path.is_file():
                lines = path.read_text(encoding="utf-8").splitlines()
                name = path.relative_to(self._folder).as_posix()
                found += [
                    f"{name}:{n}" for n, line in enumerate(lines, 1) if re.search(pattern, line)
                ]
        return found

    def write_file(self, path: str, text: str) -> int:
        """
        Write a file anew; return its size in bytes.
        """
        file = self._folder / path
        before, after = file.read_bytes(), text.encode()
        file.write_bytes(after)
        self._bus.publish(
            ResourceModified(
                resource_id=path,
                kind="file",
                modification="update",
                digest_before=digest_of(before),
                digest_after=digest_of(after),
            )
        )
        return len(after)

    def run_command(
        self,
        argv: Sequence[str],
        timeout: float = 10.0,
        environ: Mapping[str, str] | None = None,
    ) -> dict[str, JSON]:
        """
        Run a program; return its exit code and its output.

        Args:
            timeout: Seconds it may take.

            environ: What is added to its environment.

        Raises:
            TimeoutError: It took longer, and was killed.
        """
        started = CommandStarted(command=Path(argv[0]).name, params={"argv": list(argv)})
        with self._bus.operation(started) as command:
            said = {"params": started.params, "operator": AGENT}
            try:
                done = subprocess.run(
                    argv,
                    cwd=self._folder,
                    # The trace goes on in the program.
                    env={**harken.child_env(), **(environ or {})},
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    timeout=timeout,
                    check=False,
                )
            except subprocess.TimeoutExpired as error:
                command.fail(ok=False, **said)
                raise TimeoutError(
                    f"{shlex.join(argv[:1])} took longer than {timeout} s"
                ) from error
            if done.returncode == 0:
                command.complete(exit_code=0, ok=True, **said)
            else:
                command.fail(exit_code=done.returncode, ok=False, **said)
            return {"exit_code": done.returncode, "output": done.stdout}

    def open_pull_request(self, title: str, token: str) -> str:
        """
        Have the forge open a pull request; return its address.

        Raises:
            ConnectionError: The forge did not.
        """
        done = self.run_command([*PYTHON, "forge.py", title], environ={"FORGE_TOKEN": token})
        if done["exit_code"]:
            raise ConnectionError(done["output"])
        return str(done["output"]).strip()


def digest_of(data: bytes) -> str:
    """
    Return a digest that names its algorithm.
    """
    return f"sha256:{sha256(data).hexdigest()}"
