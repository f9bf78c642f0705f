"""
From an address to what forwards to it; an engine's client is loaded when its address is given.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from importlib import import_module
from inspect import signature
from typing import Any
from urllib.parse import urlsplit

from harken.forward.group import Consumer, GroupReader
from harken.forward.target import RefusedError, Stored, StreamTarget

_PROFILES = {"action-trail": ("harken.forward.action_trail", "ActionTrail")}
_ENGINES = {
    "redis": ("harken.forward.redis", "redis"),
    "rediss": ("harken.forward.redis", "redis"),
    "unix": ("harken.forward.redis", "redis"),
    "nats": ("harken.forward.nats", "nats"),
    "tls": ("harken.forward.nats", "nats"),
}


def target_of(url: str, *, profile: str | None = None, **options: object) -> StreamTarget:
    """
    Return the target at *url*.

    Args:
        url: Such as ``redis://user:password@host:6379/0``.

        profile: ``action-trail`` for ``harken.forward.action_trail.ActionTrail``.

        options: What its class takes.

    Raises:
        RefusedError: No engine has such addresses, or the package that talks to it is missing.
    """
    target: StreamTarget = _made(url, "TARGET", options, profile)
    return target


def consume(
    url: str,
    *,
    group: str,
    consumer: str | None = None,
    seconds: float | None = None,
    skip_unknown: bool = False,
    **options: object,
) -> Consumer:
    """
    Yield the events that arrive at *url*, as one member of a group of consumers.

    `Bus.republish()` takes each of them as it is.

    Args:
        url: Such as ``redis://user:password@host:6379/0``.

        group: What the consumers that share the work call themselves.

        consumer: The name of this one; by default host and process.

        seconds: How long to wait for another event before this ends; None for ever.

        skip_unknown: Whether to pass over events whose type is not known here.

        options: What the engine's `GroupReader` takes, such as *idle*.

    Raises:
        RefusedError: No engine has such addresses, or the package that talks to it is missing.
    """
    name = consumer or f"{socket.gethostname()}-{os.getpid()}"
    reader: GroupReader = _made(url, "GROUP", {"group": group, "consumer": name, **options})
    return Consumer(reader, seconds=seconds, skip_unknown=skip_unknown)


def stored(url: str, **options: object) -> Iterator[Stored]:
    """
    Yield all lines that are at *url*, log by log, each in the order of its stream.

    Raises:
        RefusedError: No engine has such addresses, or the package that talks to it is missing.

        UnavailableError: It does not answer.
    """
    found: Iterator[Stored] = _made(url, "STORED", options)
    return found


def _made(url: str, what: str, options: Mapping[str, object], profile: str | None = None) -> Any:
    scheme = urlsplit(url).scheme
    if scheme not in _ENGINES:
        known = ", ".join(f"{name}://" for name in _ENGINES)
        # Not the address itself: it may hold a password.
        named = f"{scheme}:// is no engine" if scheme else "that is no address of an engine"
        raise RefusedError(f"{named}; it begins with {known}")
    module, extra = _ENGINES[scheme]
    if profile is not None:
        if profile not in _PROFILES or extra != "redis":
            raise RefusedError(f"{scheme}:// has no profile {profile!r}; action-trail is for Redis")
        module, what = _PROFILES[profile]
    try:
        make = getattr(import_module(module), what)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        raise RefusedError(
            f"{scheme}:// needs the package {package}; install harken[{extra}]"
        ) from error
    unknown = options.keys() - signature(make).parameters
    if unknown:
        raise RefusedError(f"{scheme}:// takes no {', '.join(sorted(unknown))}; leave it out")
    return make(url, **options)
