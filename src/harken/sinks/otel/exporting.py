"""
Exporting: what the ways out for spans and for log events have in common.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from typing import Generic, Protocol, TypeVar

from opentelemetry import context as context_api
from opentelemetry.context import Context

from harken import SupportsAfterFork
from harken.errors import HarkenError
from harken.sinks.otel.exporters import LineExporter

T = TypeVar("T")
Item = TypeVar("Item")
Item_contra = TypeVar("Item_contra", contravariant=True)

# The key is made anew in each process, and instrumentations of HTTP libraries ask for this very
# one; the API has no public name for it.
_SUPPRESS = str(getattr(context_api, "_SUPPRESS_INSTRUMENTATION_KEY", "suppress_instrumentation"))
_QUIET = context_api.set_value(_SUPPRESS, True, Context())


class SpanExportError(HarkenError):
    """
    Spans or log events did not reach their backend and are lost; the exporter has logged why.

    Attributes:
        lost: Which of the batch, counted from 0; None when it is all of them.
    """

    def __init__(self, message: str, lost: Collection[int] | None = None) -> None:
        super().__init__(message)
        self.lost = lost


class WayOut(Protocol):
    """
    Where something leaves the process.
    """

    def flush(self, timeout: float) -> bool | None:
        """
        Wait at most *timeout* seconds; None when nobody can say whether everything has arrived.
        """
        ...

    def close(self, timeout: float) -> None:
        """
        Let go of what is ours within *timeout* seconds.
        """
        ...

    def after_fork(self) -> None:
        """
        Begin anew in a forked child.
        """
        ...


class Exporter(Protocol[Item_contra]):
    """
    What OpenTelemetry's exporters of all signals can do.
    """

    def export(self, batch: Sequence[Item_contra], /) -> object: ...

    def force_flush(self, timeout_millis: int = ..., /) -> bool | None: ...

    def shutdown(self) -> None: ...


class Flushable(Protocol):
    """
    A provider of the SDK.
    """

    def force_flush(self, timeout_millis: int = ..., /) -> bool: ...


class Exporting(Generic[Item]):
    """
    Exports each batch at once, in the calling thread, so that success and failure are known.

    Args:
        make:
            Returns the exporter; called again in a forked child, where one that does not know how
            to begin anew is left behind.

        failure: What the exporter returns when it failed.

        what: What is exported.
    """

    def __init__(self, make: Callable[[], Exporter[Item]], failure: object, what: str) -> None:
        self._make = make
        self._made: Exporter[Item] | None = make()
        self._failure = failure
        self._what = what

    def export(self, batch: Sequence[Item]) -> None:
        """
        Export *batch*, unseen by what instruments the exporter's HTTP library.

        Raises:
            SpanExportError: The exporter says that it failed.
        """
        token = context_api.attach(_QUIET)
        try:
            result = self._exporter.export(batch)
        finally:
            context_api.detach(token)
        if result is self._failure:
            raise SpanExportError(f"{len(batch)} {self._what} were not exported and are lost")

    def flush(self, timeout: float) -> bool | None:
        """
        Let the exporter send what it holds back; False when it says so or takes too long.
        """
        exporter = self._exporter
        if isinstance(exporter, LineExporter):
            return True
        milliseconds = int(timeout * 1000)
        done, flushed = within(timeout, lambda: exporter.force_flush(milliseconds))
        return done and flushed is not False

    def close(self, timeout: float) -> None:
        """
        Shut the exporter down; when that takes too long, it goes on behind our back.
        """
        exporter = self._exporter
        if isinstance(exporter, LineExporter):
            exporter.shutdown()
        else:
            within(timeout, exporter.shutdown)

    def after_fork(self) -> None:
        """
        Let the exporter begin anew: by itself, if it knows how, or by making another one.
        """
        if isinstance(self._made, SupportsAfterFork):
            self._made.after_fork()
        else:
            self._made = None

    @property
    def _exporter(self) -> Exporter[Item]:
        if self._made is None:
            self._made = self._make()
        return self._made


class Providing:
    """
    Hands items on to a provider that somebody else owns, flushes it, and leaves it running.

    Args:
        provider: One of the SDK; None for another kind, which cannot be flushed.

        what: What is handed on.
    """

    def __init__(self, provider: Flushable | None, what: str) -> None:
        self._flushable = provider
        self._what = what

    def emit_each(self, items: Sequence[Item], emit: Callable[[Item], None]) -> None:
        """
        Call *emit* with each of *items*; what it raises about one of them harms no other.

        Raises:
            SpanExportError: It raised; from the first of what it raised.
        """
        raised: dict[int, Exception] = {}
        for index, item in enumerate(items):
            try:
                emit(item)
            except Exception as error:  # somebody's sampler or processor may raise anything
                raised[index] = error
        if raised:
            raise SpanExportError(
                f"the provider refused {len(raised)} of {len(items)} {self._what}, which are lost",
                raised.keys(),
            ) from next(iter(raised.values()))

    def flush(self, timeout: float) -> bool | None:
        """
        Let the processors send what they hold; None when they did, since that proves nothing, and
        when nobody can say.

        The SDK's processors return True after a failed export, and do not keep the timeout.
        """
        provider = self._flushable
        if provider is None:
            return None
        milliseconds = int(timeout * 1000)
        done, flushed = within(timeout, lambda: provider.force_flush(milliseconds))
        return None if done and flushed else False

    def close(self, timeout: float) -> None:
        """
        Flush; whoever made the provider shuts it down.
        """
        self.flush(timeout)

    def after_fork(self) -> None:
        """
        Do nothing: the SDK renews what it has.
        """


def within(timeout: float, call: Callable[[], T]) -> tuple[bool, T | None]:
    """
    Call *call* in a thread of its own, and wait for it at most *timeout* seconds.

    Returns:
        Whether it returned in time, and what. An exception counts as not returning, and is
        reported by `threading.excepthook`. Where no thread can be started, it is called in this
        one, however long it takes.
    """
    returned: list[T] = []
    thread = threading.Thread(
        target=lambda: returned.append(call()), name="harken-spans", daemon=True
    )
    try:
        thread.start()
    except RuntimeError:
        # The interpreter is exiting, or there are too many threads.
        return True, call()
    thread.join(timeout)
    return (True, returned[0]) if returned else (False, None)
