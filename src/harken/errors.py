"""
What can go wrong, one class for each thing a caller would do differently.

.. code-block:: text

    HarkenError
    ├── EventError                 the declaration or lookup of an event type
    │   ├── EventNameClashError    two classes claim one dotted name
    │   ├── UnknownEventError      no type has that name
    │   └── EventDataError         data from outside does not fit its type
    ├── SubscriptionError          what was subscribed or attached cannot listen
    ├── ClosedBusError             the bus refuses new events
    ├── DeliveryError              a required subscriber did not get an event
    │   ├── QueueFullError         a queue with overflow="raise" is full
    │   └── AuditWriteError        the audit log could not write a record
    ├── AuditPathError             the audit log cannot be opened where it was asked for
    ├── AuditKeyError              a key of the audit log cannot be used or made
    ├── SettingsError              a setting is malformed
    ├── MetricsServerError         the metrics port cannot be served
    ├── TraceExporterError         the trace exporter cannot be made
    ├── LoggingError               the application's logging was configured by someone else
    ├── RedactionError             a redaction rule is malformed
    └── CommandError               a command cannot be run
"""

from __future__ import annotations

from collections.abc import Sequence


class HarkenError(Exception):
    """
    The root of every error that harken raises on purpose.
    """


class EventError(HarkenError):
    """
    An event type is declared wrongly, or an event cannot be made from what was given.
    """


class EventNameClashError(EventError):
    """
    Two classes claim the same dotted name.
    """


class UnknownEventError(EventError, LookupError):
    """
    No event type is registered under a name, or a base class was used as one.
    """


class EventDataError(EventError, ValueError):
    """
    Data from outside the process does not fit the event type it claims to be.
    """


class SubscriptionError(HarkenError, TypeError):
    """
    A handler is not callable, a sink has no ``write()``, or an option is not one of those known.
    """


class ClosedBusError(HarkenError):
    """
    The bus was closed; nothing was published.
    """


class DeliveryError(HarkenError):
    """
    At least one required subscriber did not get the event; all others did.

    Attributes:
        errors: What the required subscribers raised, in subscription order.
    """

    def __init__(self, message: str, errors: Sequence[Exception] = ()) -> None:
        super().__init__(message)
        self.errors = tuple(errors)


class QueueFullError(DeliveryError):
    """
    A subscription with ``overflow="raise"`` has no room; the event was not queued there.
    """


class AuditWriteError(DeliveryError):
    """
    An audit record was not written, and the audit log was told not to go on without it.
    """


class AuditPathError(HarkenError, OSError):
    """
    The audit log cannot be opened: nothing was written.

    Attributes:
        path: Where the log was asked for.
    """

    def __init__(self, message: str, path: str) -> None:
        super().__init__(message)
        self.path = path


class AuditKeyError(HarkenError, OSError):
    """
    A key of the audit log cannot be used or made.

    Attributes:
        path: The file of the key.
    """

    def __init__(self, message: str, path: str) -> None:
        super().__init__(message)
        self.path = path


class SettingsError(HarkenError, ValueError):
    """
    A setting is malformed; nothing was configured.
    """


class MetricsServerError(HarkenError):
    """
    The metrics port cannot be served.
    """


class TraceExporterError(HarkenError):
    """
    The trace exporter that was asked for cannot be made.
    """


class LoggingError(HarkenError):
    """
    The application's logging was already configured by someone else; it was left alone.
    """


class RedactionError(HarkenError, ValueError):
    """
    A redaction rule is malformed; no redactor was made.
    """


class CommandError(HarkenError):
    """
    A command cannot be run.
    """
