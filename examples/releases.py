"""
What the sample tools do, whatever library their command line is made with.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

ENVIRONMENTS = ("staging", "production")


class UnknownEnvironmentError(LookupError):
    """
    There is no such environment.
    """


def deploy(env: str, revision: str) -> dict[str, object]:
    """
    Put *revision* into *env*, and tell the people who look after it.
    """
    if env == "unreachable":
        raise ConnectionError("the cluster does not answer")
    if env not in ENVIRONMENTS:
        raise UnknownEnvironmentError(f"there is no environment {env}; use staging or production")
    print(f"deploying {revision} to {env}")
    # A tool of its own, which finds in its environment what this call is a part of.
    notify = Path(__file__).with_name("notify.py")
    subprocess.run([sys.executable, notify, env], stdout=subprocess.DEVNULL, check=True)
    return {"env": env, "revision": revision}


def verify(env: str, seconds: float) -> dict[str, object]:
    """
    Watch *env* for so many seconds, and tell of every look at it.
    """
    looks = 0
    deadline = time.monotonic() + seconds
    while looks == 0 or time.monotonic() < deadline:
        looks += 1
        print(f"{env} is healthy", flush=True)
        time.sleep(0.01)
    return {"env": env, "healthy": True, "looks": looks}


def rollback(env: str) -> dict[str, object]:
    """
    Put back what was in *env* before.
    """
    print(f"rolling back {env}")
    return {"env": env, "revision": "previous"}
