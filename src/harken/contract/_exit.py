"""
Exit codes: what they are called, and which one an exception means.
"""

from __future__ import annotations

import signal

from harken.contract._signals import KILLED

USAGE = 2
TIMEOUT = 10
NOT_RECORDED = 125
"""The exit code when somebody who is required to hear of the call did not."""

BROKEN_PIPE = KILLED + signal.SIGPIPE

CODES = {
    0: "SUCCESS",
    1: "GENERAL_ERROR",
    USAGE: "ARG_ERROR",
    3: "PARTIAL_FAILURE",
    4: "PRECONDITION",
    5: "NOT_FOUND",
    6: "CONFLICT",
    7: "PERMISSION_DENIED",
    8: "AUTH_REQUIRED",
    9: "PAYMENT_REQUIRED",
    TIMEOUT: "TIMEOUT",
    11: "RATE_LIMITED",
    12: "UNAVAILABLE",
    13: "REDIRECTED",
    NOT_RECORDED: "NOT_RECORDED",
}
"""What exit codes are called in ``error.code``; others are ``EXIT_<number>``."""

_RETRYABLE = {11, 12}


def name_of(code: int) -> str:
    """
    Return what an exit code is called.
    """
    if code > KILLED:
        try:
            return signal.Signals(code - KILLED).name
        except ValueError:
            pass
    return CODES.get(code, f"EXIT_{code}")


def is_retryable(code: int) -> bool:
    """
    Return whether the same call may go well later, and has done nothing so far.
    """
    return code in _RETRYABLE


def code_of(error: BaseException | None) -> int:
    """
    Return the exit code of a command that *error* leaves; 0 for None.

    An exception says it itself by an attribute *exit_code*, as those of click do.
    """
    if error is None:
        return 0
    if isinstance(error, SystemExit):
        return _of_exit(error.code)
    if isinstance(error, KeyboardInterrupt):
        return KILLED + signal.SIGINT
    if isinstance(error, BrokenPipeError):
        return BROKEN_PIPE
    said = getattr(error, "exit_code", None)
    if isinstance(said, int):
        return said & 0xFF
    return TIMEOUT if isinstance(error, TimeoutError) else 1


def _of_exit(code: object) -> int:
    if code is None:
        return 0
    # As the system reports it; what is no number Python prints, and exits with 1.
    return code & 0xFF if isinstance(code, int) else 1


def outcome_of(code: int, error: BaseException | None) -> str:
    """
    Return the outcome of a call that failed.
    """
    if code in {KILLED + signal.SIGINT, KILLED + signal.SIGTERM, KILLED + signal.SIGHUP}:
        return "cancelled"
    if isinstance(error, BrokenPipeError):
        return "cancelled"
    return "timeout" if code == TIMEOUT or isinstance(error, TimeoutError) else "failure"
