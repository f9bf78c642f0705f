"""
Die of an error, with a secret in a local variable.
"""

import harken

harken.configure_logging("json")


def log_in() -> None:
    key = "s3cr3t-value"
    if key:
        raise ValueError("refused")


log_in()
