"""
``harken catalog``.
"""

from __future__ import annotations

import inspect
import json
import re
import shutil
import textwrap
from collections.abc import Iterator
from fnmatch import fnmatchcase
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import click
import msgspec

from harken import JSON, ContentKind, Event, describe
from harken.cli._common import all_types, event_type, on_terminal, printable
from harken.contract import current

WIDEST = 100
"""Columns that are used of a terminal at most."""


class Field(msgspec.Struct, frozen=True, kw_only=True):
    """
    A field of an event type, as it is shown.

    Attributes:
        unit: Of the number that it holds; None when it is none.

        content: The kind of content that it holds; None when it is kept whatever is captured.

        words: The words that it usually holds.
    """

    name: str
    type: str
    required: bool
    default: JSON
    unit: str | None
    content: ContentKind | None
    words: tuple[str, ...]
    doc: str


@click.command(name="catalog")
@click.argument("pattern", metavar="[TYPE|GLOB]", required=False)
@click.option(
    "-o",
    "--output",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="For people, or for programs.",
)
def command(pattern: str | None, output: str) -> None:
    """
    List the event types, or show one in full.

    \b
    harken catalog                 all types: name, audited or not, what happened
    harken catalog 'tool.*'        those of one domain
    harken catalog tool.started    one type with every field
    """
    document: JSON
    if pattern is None or set(pattern) & set("*?["):
        types = _matching(pattern or "*")
        lines, document = _list(types), [_summary(cls) for cls in types.values()]
    else:
        cls = event_type(pattern)
        lines, document = _page(cls), _details(cls)
    if output == "json":
        call = current()
        answer = document if call is None else call.envelope(document)
        click.echo(json.dumps(answer, indent=2, default=str))
    else:
        click.echo("\n".join(lines))


def _matching(pattern: str) -> dict[str, type[Event]]:
    types = {name: cls for name, cls in all_types().items() if fnmatchcase(name, pattern)}
    if not types:
        raise click.BadParameter(
            f"no event type matches {pattern!r}; see `harken catalog`", param_hint="GLOB"
        )
    return types


def _summary(cls: type[Event]) -> dict[str, JSON]:
    info = describe(cls)
    return {"name": info.name, "audited": info.audit, "summary": _first_sentence(_prose(cls))}


def _details(cls: type[Event]) -> dict[str, JSON]:
    info = describe(cls)
    return {
        **_summary(cls),
        "class": _path(cls),
        "description": _prose(cls),
        "action": info.action,
        "resource": info.resource,
        "key": list(info.key),
        "ends": describe(info.ends).name if info.ends else None,
        "ended_by": [describe(terminal).name for terminal in info.terminals],
        "transient": info.transient,
        "schema_version": info.schema_version,
        "fields": [msgspec.structs.asdict(field) for field in fields_of(cls)],
    }


def _list(types: dict[str, type[Event]]) -> Iterator[str]:
    longest = max(map(len, types))
    yield click.style(f"{'TYPE':<{longest}}  AUDITED  WHAT HAPPENED", bold=True)
    for name, cls in types.items():
        audited = "yes" if describe(cls).audit else "-"
        what = _wrapped(_first_sentence(_prose(cls)), indent=longest + 11)
        yield f"{click.style(f'{name:<{longest}}', fg='cyan')}  {audited:<7}  {what}"


def _page(cls: type[Event]) -> Iterator[str]:
    info = describe(cls)
    yield click.style(info.name, fg="cyan", bold=True)
    for paragraph in _prose(cls).split("\n\n"):
        yield f"  {_wrapped(paragraph, indent=2)}"
        yield ""
    ended_by = ", ".join(describe(terminal).name for terminal in info.terminals)
    said = {
        "class": _path(cls),
        "audited": "yes" if info.audit else "no",
        "action": info.action,
        "resource": info.resource,
        "key": ", ".join(info.key),
        "ends": describe(info.ends).name if info.ends else "",
        "ended by": ended_by,
        "transient": "yes: a sink gets it only when it is attached for this type"
        if info.transient
        else "",
        "version": str(info.schema_version),
    }
    for word, value in said.items():
        if value:
            yield f"  {word:<10}{_wrapped(value, indent=12)}"
    fields = fields_of(cls)
    yield ""
    yield click.style("Fields" if fields else "No fields of its own", bold=True)
    for field in fields:
        yield from _field_lines(field)


def _field_lines(field: Field) -> Iterator[str]:
    default = "" if field.required else f" = {field.default!r}"
    notes = [
        "required" if field.required else "",
        f"in {field.unit}" if field.unit else "",
        f"content: {field.content}" if field.content else "",
    ]
    note = ", ".join(filter(None, notes))
    signature = f"{click.style(field.name, fg='cyan')}: {printable(field.type + default)}"
    yield f"  {signature}{f'  ({note})' if note else ''}"
    doc = field.doc
    if not doc and field.words:
        doc = f"Such as {', '.join(field.words)}."
    if doc:
        yield f"      {_wrapped(doc, indent=6)}"


def fields_of(cls: type[Event]) -> tuple[Field, ...]:
    """
    Return the fields of *cls*, in order of declaration.
    """
    docs = _field_docs(cls)
    content = describe(cls).content
    found: list[Field] = []
    for field in msgspec.structs.fields(cls):
        metas = tuple(_metas(field.type))
        units = [meta.extra["unit"] for meta in metas if meta.extra and "unit" in meta.extra]
        words = [str(word) for meta in metas for word in meta.examples or ()]
        found.append(
            Field(
                name=field.name,
                type=type_name(field.type),
                required=field.required,
                default=_default(field),
                unit=units[0] if units else None,
                content=content.get(field.name),
                words=tuple(words),
                doc=docs.get(field.name, ""),
            )
        )
    return tuple(found)


def _default(field: msgspec.structs.FieldInfo) -> JSON:
    if field.default is not msgspec.NODEFAULT:
        return field.default
    if field.default_factory is not msgspec.NODEFAULT:
        return field.default_factory()
    return None


def _metas(hint: Any) -> Iterator[msgspec.Meta]:
    for part in get_args(hint):
        if isinstance(part, msgspec.Meta):
            yield part
        else:
            yield from _metas(part)


def type_name(hint: Any) -> str:
    """
    Return a type hint as an author writes it, without what is annotated to it.
    """
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return type_name(parts[0])
    if hint is Any:
        return "JSON"
    if hint is type(None):
        return "None"
    if hint is Ellipsis:
        return "..."
    if not parts:
        return str(getattr(hint, "__name__", None) or repr(hint))
    names = [type_name(part) for part in parts]
    if origin in (Union, UnionType):
        return " | ".join(names)
    return f"{getattr(origin, '__name__', origin)}[{', '.join(names)}]"


def _path(cls: type[Event]) -> str:
    # The catalog's types are imported from the package, wherever in it they stand.
    module = "harken.catalog" if cls.__module__.startswith("harken.catalog.") else cls.__module__
    return f"{module}.{cls.__qualname__}"


def _prose(cls: type[Event]) -> str:
    """
    Return what the docstring says before its sections, one line for each paragraph.
    """
    text = inspect.cleandoc(cls.__doc__ or "").partition("\nAttributes:\n")[0]
    return "\n\n".join(_plain(paragraph) for paragraph in text.strip().split("\n\n"))


def _field_docs(cls: type[Event]) -> dict[str, str]:
    docs: dict[str, list[str]] = {}
    for base in reversed(cls.__mro__):
        section = inspect.cleandoc(base.__doc__ or "").partition("\nAttributes:\n")[2]
        name = ""
        for line in section.splitlines():
            entry = re.fullmatch(r" {4}(\w+):\s*(.*)", line)
            if entry is not None:
                name = entry[1]
                docs[name] = [entry[2]]
            elif name and line.startswith("        "):
                docs[name].append(line)
    return {name: _plain(" ".join(lines)) for name, lines in docs.items()}


def _plain(text: str) -> str:
    """
    Return *text* in one line and without markup.
    """
    return re.sub(r"``|(?<!\w)\*(?=\w)|(?<=\w)\*(?!\w)", "", " ".join(text.split()))


def _first_sentence(text: str) -> str:
    first = text.partition("\n")[0]
    return re.split(r"(?<=[.!?]) (?=[A-Z])", first, maxsplit=1)[0]


def _wrapped(text: str, *, indent: int) -> str:
    """
    Return *text* wrapped to the terminal, all lines but the first indented; in one line elsewhere.
    """
    text = printable(text)
    if not on_terminal():
        return text
    width = min(shutil.get_terminal_size().columns, WIDEST) - indent
    return f"\n{' ' * indent}".join(textwrap.wrap(text, max(width, 20)) or [""])
