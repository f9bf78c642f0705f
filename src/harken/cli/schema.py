"""
``harken schema``.
"""

from __future__ import annotations

import json

import click

from harken import JSON, Event, schema
from harken.cli._common import all_types, event_type

DIALECT = "https://json-schema.org/draft/2020-12/schema"


@click.command(name="schema")
@click.argument("type_name", metavar="[TYPE]", required=False)
def command(type_name: str | None) -> None:
    """
    Print the JSON Schema of one event type, or of all.

    The schema describes the event's own fields: the member `metadata` of an audit record, and
    `data` of a log line. Units are given as `x-unit`, content as `x-content`. Without TYPE, it
    is one document that has each type under `$defs`.
    """
    if type_name is None:
        document = schema_of_all(all_types())
    else:
        document = schema(event_type(type_name))
    click.echo(json.dumps(document, indent=2))


def schema_of_all(types: dict[str, type[Event]]) -> dict[str, JSON]:
    """
    Return one document that has the schema of each type under ``$defs``.
    """
    definitions: dict[str, JSON] = {}
    for name, cls in types.items():
        own = schema(cls)
        del own["$schema"]
        # With an id of its own, what a schema refers to is looked up within it.
        definitions[name] = {"$id": f"urn:harken:event:{name}", **own}
    return {"$schema": DIALECT, "title": "harken events", "$defs": definitions}
