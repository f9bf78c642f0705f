"""
``harken completion``.
"""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

SHELLS = ("bash", "zsh", "fish")
"""The shells that can complete."""


@click.command(name="completion")
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def command(context: click.Context, shell: str) -> None:
    """
    Print what a shell needs to complete harken's commands.

    \b
    bash  harken completion bash > ~/.local/share/bash-completion/completions/harken
    zsh   harken completion zsh > ~/.zfunc/_harken
    fish  harken completion fish > ~/.config/fish/completions/harken.fish
    """
    maker = get_completion_class(shell)
    assert maker is not None, "click knows these shells"
    click.echo(maker(context.find_root().command, {}, "harken", "_HARKEN_COMPLETE").source())
