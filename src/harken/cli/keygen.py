"""
``harken keygen``.
"""

from __future__ import annotations

from pathlib import Path

import click

from harken.cli._common import FILE


@click.command(name="keygen")
@click.argument("file", type=FILE)
@click.option(
    "--signing", is_flag=True, help="Make an Ed25519 key, for whoever has its public half."
)
def command(file: Path, *, signing: bool) -> None:
    """
    Make a key that seals the audit log.

    FILE is for the agent alone: HARKEN_AUDIT_KEY_PATH (or HARKEN_AUDIT_SIGNING_KEY_PATH) names it.
    What is printed is for whoever verifies the log: keep it off this machine.

    Without --signing the key evolves: FILE holds the key of now, and what is printed is the first
    one, which is shown this once. Whoever breaks in later cannot forge what was sealed before.
    One log, one key.
    """
    from harken.sinks.audit import create_key, create_signing_key

    if signing:
        click.echo(create_signing_key(file), nl=False)
        click.echo("This is the public key, for `harken verify --public-key`.", err=True)
    else:
        key = create_key(file)
        try:
            click.echo(key)
        except OSError:
            # Nobody has seen the first key: without it nothing could ever be verified.
            file.unlink()
            raise
        click.echo(
            "This is shown once. Keep it off this machine, for `harken verify --key`.", err=True
        )
