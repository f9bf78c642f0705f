"""
A tool made with click, under the contract.
"""

import click
import releases

from harken.contract import contract


@click.group()
def cli() -> None:
    """
    Put revisions into environments.
    """


@cli.command()
@click.argument("env")
@click.option("--revision", default="main")
@click.option("--api-token")
def deploy(env: str, revision: str, api_token: str | None) -> dict[str, object]:
    """
    Put a revision into an environment.
    """
    try:
        return releases.deploy(env, revision)
    except releases.UnknownEnvironmentError as error:
        click.echo(f"Error: {error}", err=True)
        raise click.exceptions.Exit(5) from error


@cli.command()
@click.argument("env")
@click.option("--seconds", type=float, default=0.0)
def verify(env: str, seconds: float) -> dict[str, object]:
    """
    Watch an environment.
    """
    return releases.verify(env, seconds)


@cli.command()
@click.argument("env")
def rollback(env: str) -> dict[str, object]:
    """
    Put back what was there before.
    """
    return releases.rollback(env)


app = contract(cli, tool="deploy-click", version="1.2.3")

if __name__ == "__main__":
    app()
