"""
A tool made with cyclopts, under the contract.
"""

import sys

import cyclopts
import releases

from harken.contract import contract

cli = cyclopts.App(name="deploy-cyclopts", version="1.2.3")


@cli.command
def deploy(env: str, *, revision: str = "main", api_token: str = "") -> dict[str, object]:
    """
    Put a revision into an environment.
    """
    try:
        return releases.deploy(env, revision)
    except releases.UnknownEnvironmentError as error:
        print(f"Error: {error}", file=sys.stderr)
        raise SystemExit(5) from error


@cli.command
def verify(env: str, *, seconds: float = 0.0) -> dict[str, object]:
    """
    Watch an environment.
    """
    return releases.verify(env, seconds)


@cli.command
def rollback(env: str) -> dict[str, object]:
    """
    Put back what was there before.
    """
    return releases.rollback(env)


app = contract(cli, tool="deploy-cyclopts", version="1.2.3")

if __name__ == "__main__":
    app()
