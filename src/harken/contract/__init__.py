"""
The contract between command-line tools and the agents that call them.

.. code-block:: python

    from harken import contract

    with contract.invocation("nightly-job", version="1.2.3") as call:
        call.set(data={"rows": 42})

Every answer says what it was, how long it took and how to find it again; every call is in the
tool's audit log. Tools made with click, Typer, argparse or cyclopts are adopted whole, by
``contract()``.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from harken.contract._exit import CODES, is_retryable, name_of
from harken.contract._invocation import SCHEMA_VERSION, Invocation, current
from harken.contract._output import Form, OutputError, form_of, take_output
from harken.contract._tool import Tool, UnknownAppError

__all__ = [
    "CODES",
    "SCHEMA_VERSION",
    "Form",
    "Invocation",
    "OutputError",
    "Tool",
    "UnknownAppError",
    "contract",
    "current",
    "form_of",
    "invocation",
    "is_retryable",
    "name_of",
    "take_output",
]


def invocation(
    tool: str,
    *,
    version: str = "unknown",
    command: str | None = None,
    params: Mapping[str, object] | None = None,
    argv: Sequence[str] | None = None,
) -> Invocation:
    """
    Return the call of a script that has no command-line library, to be entered by ``with``.

    Args:
        tool: What it is called; its audit log is in the folder of that name.

        command: By default the tool itself.

        params: Its arguments by name.

        argv: Where ``--output json|jsonl|text`` is looked for; by default the process's own
            arguments. Without it, the answer is text on a terminal, else JSON.

    Raises:
        SystemExit: ``--output`` names no form; the exit code is 2.
    """
    try:
        form = form_of(take_output(sys.argv[1:] if argv is None else argv)[1])
    except OutputError as error:
        print(f"{tool}: error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    return Invocation(tool, version=version, form=form, command=command or tool, params=params)


class _Contract:
    """
    `contract()`, and with it `invocation()` and `current()`, by one name to import.
    """

    invocation = staticmethod(invocation)
    current = staticmethod(current)

    def __call__(self, app: object, *, tool: str, version: str = "unknown") -> Tool:
        """
        Return *app* under the contract; call it in place of *app*.

        Args:
            app: A click command or group, a Typer app, a cyclopts App, or an ArgumentParser whose
                commands say what runs by ``set_defaults(func=...)``.

            tool: What the tool is called; its audit log is in the folder of that name.

            version: Of the tool.

        Raises:
            UnknownAppError: It is none of these.
        """
        return Tool(app, tool=tool, version=version)


contract = _Contract()
