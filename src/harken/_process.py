"""
What happens to buses at fork, at interpreter exit, and at the end of a child process.
"""

from __future__ import annotations

import atexit
import os
import sys
import weakref
from typing import TYPE_CHECKING

from harken.delivery import forget_threads
from harken.event import on_terminal_declared

if TYPE_CHECKING:
    from harken.bus import Bus

# By id(): what tuple() makes of its values is complete, whatever other threads add meanwhile.
_live: dict[int, weakref.ref[Bus]] = {}

# Those that somebody listens to: what is queued there must not go with the last reference.
_heard: set[Bus] = set()


def watch(bus: Bus) -> None:
    """
    Have *bus* renewed in forked children.
    """
    key = id(bus)
    _live[key] = weakref.ref(bus, lambda _: _live.pop(key, None))


def _buses() -> list[Bus]:
    return [bus for reference in tuple(_live.values()) if (bus := reference()) is not None]


def hold(bus: Bus) -> None:
    """
    Keep *bus* until it is closed, at the latest at the end of this process.
    """
    if bus not in _heard:
        _heard.add(bus)
        _close_with_child(bus)


def release(bus: Bus) -> None:
    """
    Let *bus* go, which is closed.
    """
    _heard.discard(bus)


def _close_with_child(bus: Bus) -> None:
    """
    Have *bus* closed at the end of a `multiprocessing` child, which runs no exit hooks.

    Such a child clears its finalizers as it begins, and then runs what is registered for after
    the fork; that is where the finalizer has to be made.
    """
    util = sys.modules.get("multiprocessing.util")
    if util is None:
        return
    util.register_after_fork(bus, _finalize_with_child)
    if sys.modules["multiprocessing.process"].parent_process() is not None:
        _finalize_with_child(bus)


def _finalize_with_child(bus: Bus) -> None:
    util = sys.modules["multiprocessing.util"]
    reference = weakref.ref(bus)

    def close() -> None:
        alive = reference()
        if alive is not None:
            alive.close_at_exit()

    util.Finalize(None, close, exitpriority=100)


def _close_all() -> None:
    for bus in tuple(_heard):
        bus.close_at_exit()


def _renew_all() -> None:
    forget_threads()
    for bus in _buses():
        bus.after_fork()
    for bus in tuple(_heard):
        _close_with_child(bus)


def _refresh_all() -> None:
    for bus in _buses():
        bus.refresh()


on_terminal_declared(_refresh_all)
atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_all)
