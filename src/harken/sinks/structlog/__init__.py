"""
Logs: harken's events as log lines, and one set-up for every log line of the application.
"""

from __future__ import annotations

from harken.sinks.structlog._application import ConfiguredLogging, configure_logging
from harken.sinks.structlog._handler import LogHandler

__all__ = ["ConfiguredLogging", "LogHandler", "configure_logging"]
