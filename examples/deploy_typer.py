"""
A tool made with Typer, under the contract.
"""

import releases
import typer

from harken.contract import contract

cli = typer.Typer()


@cli.command()
def deploy(env: str, revision: str = "main", api_token: str = "") -> dict[str, object]:
    """
    Put a revision into an environment.
    """
    try:
        return releases.deploy(env, revision)
    except releases.UnknownEnvironmentError as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(5) from error


@cli.command()
def verify(env: str, seconds: float = 0.0) -> dict[str, object]:
    """
    Watch an environment.
    """
    return releases.verify(env, seconds)


@cli.command()
def rollback(env: str) -> dict[str, object]:
    """
    Put back what was there before.
    """
    return releases.rollback(env)


app = contract(cli, tool="deploy-typer", version="1.2.3")

if __name__ == "__main__":
    app()
