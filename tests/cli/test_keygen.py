"""
``harken keygen``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harken.record import evolved, key_id_of
from harken.sinks.audit import AuditLog


def test_key(harken: Callable[..., Any], tmp_path: Path) -> None:
    """
    The file is for the agent, and what is printed, once, for whoever verifies.
    """
    called = harken("keygen", "audit.key")

    file = tmp_path / "audit.key"
    first_key = bytes.fromhex(called.stdout.strip())
    assert key_id_of(first_key) in file.read_text()
    assert 0o600 == file.stat().st_mode & 0o777
    assert "This is shown once." in called.stderr
    AuditLog(tmp_path / "audit.jsonl", key_path=file).close()
    assert evolved(first_key).hex() in file.read_text()
    assert first_key.hex() not in file.read_text()


def test_signing_key(harken: Callable[..., Any], tmp_path: Path) -> None:
    """
    A signing key stays in the file, and its public half is printed.
    """
    pytest.importorskip("cryptography", reason="needs harken[sign]")
    called = harken("keygen", "--signing", "audit.pem")

    assert called.stdout.startswith("-----BEGIN PUBLIC KEY-----\n")
    assert called.stdout.endswith("-----END PUBLIC KEY-----\n")
    assert "PRIVATE KEY" in (tmp_path / "audit.pem").read_text()


def test_existing_file(harken: Callable[..., Any], tmp_path: Path) -> None:
    """
    A key is never replaced.
    """
    (tmp_path / "audit.key").write_text("mine")
    called = harken("keygen", "audit.key", returncode=4)

    assert "name a new file; a key is never replaced" in called.stderr
    assert "" == called.stdout
    assert "mine" == (tmp_path / "audit.key").read_text()
