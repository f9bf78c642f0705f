"""
A tool made with argparse, under the contract.
"""

import argparse
import sys

import releases

from harken.contract import contract


def deploy(options: argparse.Namespace) -> dict[str, object] | int:
    try:
        return releases.deploy(options.env, options.revision)
    except releases.UnknownEnvironmentError as error:
        print(f"error: {error}", file=sys.stderr)
        return 5


def verify(options: argparse.Namespace) -> dict[str, object]:
    return releases.verify(options.env, options.seconds)


def rollback(options: argparse.Namespace) -> dict[str, object]:
    return releases.rollback(options.env)


parser = argparse.ArgumentParser(prog="deploy-argparse", description="Put revisions into places.")
commands = parser.add_subparsers(required=True)
for function in (deploy, verify, rollback):
    command = commands.add_parser(function.__name__)
    command.add_argument("env")
    command.set_defaults(func=function)
    if function is deploy:
        command.add_argument("--revision", default="main")
        command.add_argument("--api-token")
    elif function is verify:
        command.add_argument("--seconds", type=float, default=0.0)

app = contract(parser, tool="deploy-argparse", version="1.2.3")

if __name__ == "__main__":
    app()
