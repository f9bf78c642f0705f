"""
The reference pages that follow from the code: what it declares is what they say.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry

import harken.catalog
from harken import Bus, Event, EventType, OutcomeFrom, describe, event_types, schema
from harken.cli import COMMANDS
from harken.cli.catalog import Field, fields_of, type_name
from harken.cli.schema import schema_of_all
from harken.record import ALWAYS, CHAIN, CONTROL_TYPES, OPTIONAL
from harken.sinks.otel import mapping
from harken.sinks.prometheus import PrometheusInstrumenter
from harken.sinks.prometheus.instruments import BUS_INSTRUMENTS, INSTRUMENTS, SINK_INSTRUMENTS
from harken.sinks.prometheus.semconv import SEMCONV_INSTRUMENTS
from harken.trail import EXIT_CODES

DOCS = Path(__file__).resolve().parents[1]


def pages() -> dict[str, str]:
    """
    Return the pages by name.
    """
    return {
        "reference/catalog.md": _catalog(),
        **_domains(),
        "reference/record.md": _record(),
        "reference/instruments.md": _instruments(),
        "reference/spans.md": _spans(),
        "reference/settings.md": _settings(),
        "reference/commands.md": _commands(),
    }


def catalog_schema() -> str:
    """
    Return the JSON Schema of the whole catalog.
    """
    return json.dumps(schema_of_all(_types()), indent=2)


def table(heads: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """
    Return a table in Markdown.
    """
    heads = list(heads)
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines) + "\n"


def code(value: object) -> str:
    """
    Return *value* as code; nothing where there is none.
    """
    text = str(value)
    return f"`{text}`" if text else ""


def prose(docstring: str | None) -> str:
    """
    Return what a docstring says before its sections, in Markdown.
    """
    text = inspect.cleandoc(docstring or "")
    return re.split(r"\n\n?(?:Attributes|Args|Returns|Raises):\n", text)[0].replace("``", "`")


def _cell(value: object) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")


def _types() -> dict[str, type[Event]]:
    # In order of declaration: a start stands before its ends.
    types = event_types().items()
    return {name: cls for name, cls in types if cls.__module__.startswith("harken.catalog.")}


def _by_domain() -> dict[str, list[tuple[str, type[Event]]]]:
    def domain(item: tuple[str, type[Event]]) -> str:
        return item[1].__module__.rpartition(".")[2]

    types = sorted(_types().items(), key=domain)
    return {key: list(group) for key, group in groupby(types, domain)}


def _catalog() -> str:
    parts = [
        "# The catalog\n",
        f"The {len(_types())} event types that ship with harken, from `harken.catalog`.",
        "`harken catalog` and `harken schema` show the same on the command line.",
        '<a href="../catalog.schema.json">JSON Schema of the whole catalog</a>.\n',
    ]
    for domain, types in _by_domain().items():
        doc = prose(import_module(f"harken.catalog.{domain}").__doc__)
        parts.append(f"## {doc.rstrip('.')}\n")
        rows = [
            (
                f"[`{name}`](../catalog/{domain}.md#{_anchor(name)})",
                "yes" if describe(cls).audit else "",
                prose(cls.__doc__).split("\n\n")[0],
            )
            for name, cls in types
        ]
        parts.append(table(("type", "audited", "what happened"), rows))
    domains = "\n".join(f"../catalog/{domain}.md" for domain in _by_domain())
    return "\n".join([*parts, f"```{{toctree}}\n:hidden:\n\n{domains}\n```\n"])


def _anchor(name: str) -> str:
    return name.replace(".", "")


def _domains() -> dict[str, str]:
    found: dict[str, str] = {}
    for domain, types in _by_domain().items():
        doc = prose(import_module(f"harken.catalog.{domain}").__doc__)
        chapters = [_type(describe(cls)) for _, cls in types]
        found[f"catalog/{domain}.md"] = "\n".join([f"# {doc.rstrip('.')}\n", *chapters])
    return found


def _type(info: EventType) -> str:
    outcome = info.outcome
    said = {
        "class": code(f"harken.catalog.{info.cls.__name__}"),
        "audited": "yes" if info.audit else "no",
        "action": code(info.action),
        "resource": code(info.resource),
        "outcome": f"from {code(outcome.field)}" if isinstance(outcome, OutcomeFrom) else outcome,
        "key": ", ".join(map(code, info.key)),
        "ends": info.ends and code(describe(info.ends).name),
        "ended by": ", ".join(code(describe(cls).name) for cls in info.terminals),
        "transient": "yes" if info.transient else "",
        "schema version": info.schema_version,
    }
    rows = [(word, value) for word, value in said.items() if value]
    fields = fields_of(info.cls)
    own = table(("field", "type, unit, content", "default", "meaning"), map(_field, fields))
    own = own if fields else "It has no fields of its own.\n"
    text = json.dumps(schema(info.cls), indent=2)
    return (
        f"## {info.name}\n\n{prose(info.cls.__doc__)}\n\n{table(('', ''), rows)}\n{own}\n"
        f"<details><summary>JSON Schema</summary>\n\n```json\n{text}\n```\n\n</details>\n"
    )


def _field(field: Field) -> tuple[str, ...]:
    doc = field.doc
    if not doc and field.words:
        doc = f"Such as {', '.join(map(code, field.words))}."
    return (
        code(field.name),
        "<br>".join(filter(None, (code(field.type), field.unit, field.content))),
        "required" if field.required else code(repr(field.default)),
        doc,
    )


def _record() -> str:
    """
    Render the module that defines the format: its docstring is the specification.
    """
    meaning = _meaning_of_members()
    members = [*ALWAYS, *OPTIONAL, *CHAIN]
    rows = (
        (number, code(member), "" if member in OPTIONAL else "yes", meaning[member])
        for number, member in enumerate(members, 1)
    )
    return (
        "# The record format\n\n"
        "Members stand in this order; those that are not in every record are left out where there "
        "is nothing to say.\n\n"
        + table(("", "member", "always", "meaning"), rows)
        + f"\nThe event types of control records are {', '.join(map(code, CONTROL_TYPES))}.\n"
        + _module_docs("harken.record")
    )


def _meaning_of_members() -> dict[str, str]:
    """
    Return what the page about the audit log says of each member of a record.
    """
    page = (DOCS / "audit-log.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| (.+) \|$", page, re.MULTILINE)
    return {name: said for names, said in rows for name in re.findall(r"\w+", names)}


def _module_docs(name: str) -> str:
    options = "   :no-members:\n   :no-index:\n"
    return f"\n```{{eval-rst}}\n.. automodule:: {name}\n{options}```\n"


def _instruments() -> str:
    own = [*BUS_INSTRUMENTS, *SINK_INSTRUMENTS]
    return (
        "# Instruments\n\n"
        "What a scrape shows with the default namespace, `infra_agent`.\n"
        "A histogram has `_bucket`, `_sum` and `_count` behind its name.\n\n"
        "## Of agents\n\n"
        + _metrics(INSTRUMENTS)
        + "\n## Of harken itself\n\n"
        + _metrics(own)
        + "\nNot in a table of the code, but in every scrape:\n\n"
        + _scraped({metric_name(one) for one in (*INSTRUMENTS, *own)})
        + "\n## With the names of OpenTelemetry's conventions\n\n"
        'With `metrics_names="semconv"` these take the place of those with the same meaning.\n\n'
        + _metrics(one for one in SEMCONV_INSTRUMENTS if one not in INSTRUMENTS)
    )


def _metrics(instruments: Iterable[Any]) -> str:
    return table(
        ("metric", "meaning", "labels", "fed by"),
        (
            (
                f"{code(metric_name(one))}<br>{one.kind}",
                one.help,
                ", ".join(map(code, one.labels)),
                ", ".join(map(code, dict.fromkeys(_feeds(one)))),
            )
            for one in instruments
        ),
    )


def _scraped(known: set[str]) -> str:
    """
    Tell of the metrics that only a scrape shows.
    """
    registry, bus = CollectorRegistry(), Bus()
    bus.attach(PrometheusInstrumenter(registry))
    named = {name.removesuffix("_total") for name in known}
    rows = [
        (f"{code(family.name)}<br>{family.type}", family.documentation)
        for family in registry.collect()
        if family.name not in named
    ]
    bus.close()
    return table(("metric", "meaning"), rows)


def metric_name(instrument: Any) -> str:
    """
    Return the name under which a scrape shows *instrument*.
    """
    prefix = getattr(instrument, "prefix", "")
    prefix = "infra_agent" if prefix is None else prefix
    ending = "_total" if instrument.kind == "counter" else ""
    return f"{prefix}_{instrument.name}".lstrip("_") + ending


def _feeds(instrument: Any) -> Iterator[str]:
    for feed in getattr(instrument, "feeds", ()):
        yield from ("every audited event" if name == "*audited*" else name for name in feed.on)


def _spans() -> str:
    parts = [
        "# Span mapping\n",
        f"Version {mapping.VERSION}; every span's scope says it as `harken.mapping.version`.\n",
        _module_docs("harken.sinks.otel.mapping"),
    ]
    for name, span in mapping.SPANS.items():
        said = {"name": span.name, "kind": span.kind, "operation": span.operation}
        told = ", ".join(f"{word} {code(value)}" for word, value in said.items() if value)
        parts.append(f"## {name}\n\nSpan {told}.\n")
        rows = [
            *((code(key), code(source), "") for key, source in span.attributes),
            *((code(f"infra_agent.{key}"), code(source), "") for key, source in span.prefixed),
            *((code(key), code(source), "only with content") for key, source in span.content),
        ]
        parts.append(table(("attribute", "source", ""), rows))
    parts.append("## On every span\n")
    rows = [*mapping.COMMON, *((f"infra_agent.{key}", src) for key, src in mapping.COMMON_PREFIXED)]
    parts.append(table(("attribute", "source"), ((code(key), code(src)) for key, src in rows)))
    return "\n".join(parts)


def _settings() -> str:
    docs = _attribute_docs(harken.Settings)
    defaults = msgspec.structs.asdict(harken.Settings())
    rows = (
        (
            f"{code(field.name)}<br>{code(f'HARKEN_{field.name.upper()}')}",
            f"{_words(type_name(field.type))}<br>{code(f'= {defaults[field.name]!r}')}",
            docs[field.name],
        )
        for field in msgspec.structs.fields(harken.Settings)
    )
    heads = ("setting, variable", "type, default", "meaning")
    return f"# Settings, one by one\n\n{prose(harken.Settings.__doc__)}\n\n{table(heads, rows)}"


def _words(type_name: str) -> str:
    """
    Return the name of a type; of one that has only certain words, these.
    """
    found = re.fullmatch(r"(tuple\[)?Literal\[([^]]+)\](?:, \.\.\.\])?(?: \| (None))?", type_name)
    if found is None:
        return code(type_name)
    words = [*re.findall(r"'(\w+)'", found[2]), *filter(None, [found[3]])]
    return ("any of " if found[1] else "") + ", ".join(map(code, words))


def _attribute_docs(cls: type) -> Mapping[str, str]:
    section = inspect.cleandoc(cls.__doc__ or "").partition("\nAttributes:\n")[2]
    entries = re.findall(r"^    (\w+):(.*(?:\n(?:        .*)?)*)", section, re.MULTILINE)
    return {name: " ".join(text.replace("``", "`").split()) for name, text in entries}


def _commands() -> str:
    parts = ["# Commands and exit codes\n", "## Exit codes\n", _exit_codes()]
    for name, what in COMMANDS.items():
        command = import_module(f"harken.cli.{name.replace('-', '_')}").command
        help_text = command.get_help(
            command.make_context(f"harken {name}", [], resilient_parsing=True)
        )
        parts.append(f"## harken {name}\n\n{what}\n\n```text\n{help_text}\n```\n")
    return "\n".join(parts)


def _exit_codes() -> str:
    verify = "; ".join(f"{code} {verdict}" for verdict, code in EXIT_CODES.items())
    rows = [
        (0, "every command", "Done."),
        (1, "every command", "Failed, in a way that has no code of its own."),
        (2, "every command", "Wrong usage, or a malformed setting."),
        *_declared_codes(),
    ]
    rows.sort(key=lambda row: row[0])
    instead = ("", "`harken verify`", f"Instead: {verify}.")
    return table(("code", "command", "meaning"), [*rows, instead])


def _declared_codes() -> Iterator[tuple[int, str, str]]:
    """
    Find the constants whose docstring says that they are an exit code.
    """
    folder = Path(inspect.getfile(import_module("harken.cli"))).parent
    for path in sorted(folder.glob("*.py")):
        body = ast.parse(path.read_text(encoding="utf-8")).body
        for statement, after in pairwise(body):
            match statement, after:
                case (
                    ast.Assign(value=ast.Constant(value=int(value))),
                    ast.Expr(value=ast.Constant(value=str(doc))),
                ) if doc.startswith("The exit code"):
                    said = doc.removeprefix("The exit code ").strip().replace("``", "`")
                    yield value, _who(path.stem), said[0].upper() + said[1:]


def _who(module: str) -> str:
    match module:
        case "__init__":
            return "every command"
        case "_desk":
            return "commands that read the log"
        case _:
            return f"`harken {module.replace('_', '-')}`"
