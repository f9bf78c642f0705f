"""
What others build on, as it is committed: the API, the catalog, the record format, the metrics.

A change that is meant is announced by writing the snapshots anew, in the same commit:

    python tests/test_snapshots.py --write
"""

from __future__ import annotations

import ast
import difflib
import json
import re
import sys
from collections.abc import Callable, Iterator
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"
SNAPSHOTS = Path(__file__).with_name("snapshots")

# Rooms that nobody imports from: what of them is public is exported by `harken`.
INNER = {
    *("__main__", "body", "bus", "cli", "delivery", "dispatch", "ending", "envelope", "event"),
    *("flushing", "keys", "operation", "pairing", "routes", "scope", "settings", "subscription"),
}
# It has a snapshot of its own.
CATALOG = "catalog"


def api() -> str:
    """
    Return every public name with its signature, read from the source: nothing is imported, so
    that it is the same with and without the frameworks that adapters are for.
    """
    return "\n".join(chain.from_iterable(map(_module_lines, _public_modules("harken")))) + "\n"


def catalog() -> str:
    """
    Return what is declared of every event type.
    """
    import harken.catalog
    from harken import OutcomeFrom, describe, event_types, schema

    def said(cls: Any) -> dict[str, Any]:
        info = describe(cls)
        outcome: Any = info.outcome
        if isinstance(outcome, OutcomeFrom):
            outcome = {"from": outcome.field, "mapping": outcome.mapping}
        own = schema(cls)
        return {
            "class": cls.__name__,
            "audit": info.audit,
            "action": info.action,
            "resource": info.resource,
            "key": list(info.key),
            "ends": describe(info.ends).name if info.ends else None,
            "outcome": outcome,
            "transient": info.transient,
            "schema_version": info.schema_version,
            "fields": _without_prose(own.get("properties", {})),
            "required": own.get("required", []),
        }

    types = {
        name: said(cls)
        for name, cls in sorted(event_types().items())
        if cls.__module__.startswith(f"{harken.catalog.__name__}.")
    }
    return json.dumps(types, indent=1) + "\n"


def record() -> str:
    """
    Return the format of an audit record.
    """
    from harken import record as room

    names = ("VERSION", "GENESIS", "MAX_LINE", "SEAL", "CHECKPOINT_EVERY")
    sets = ("ALWAYS", "OPTIONAL", "CHAIN", "CONTROL_TYPES")
    said = {name.lower(): getattr(room, name) for name in (*names, *sets)}
    return json.dumps(said, indent=1) + "\n"


def metrics() -> str:
    """
    Return every metric, under both kinds of names, with its kind and its labels.
    """
    from prometheus_client import CollectorRegistry

    from harken import Bus
    from harken.sinks.prometheus import PrometheusInstrumenter
    from harken.sinks.prometheus.instruments import BUS_INSTRUMENTS, INSTRUMENTS, SINK_INSTRUMENTS
    from harken.sinks.prometheus.semconv import SEMCONV_INSTRUMENTS

    tables: dict[str, tuple[Any, ...]] = {
        "harken": (*INSTRUMENTS, *BUS_INSTRUMENTS, *SINK_INSTRUMENTS),
        "semconv": tuple(one for one in SEMCONV_INSTRUMENTS if one not in INSTRUMENTS),
    }
    lines = [
        f"{names} {_metric(one)} {one.kind} {{{', '.join(one.labels)}}}"
        for names, instruments in tables.items()
        for one in instruments
    ]
    # Some of harken's own are in no table; a scrape shows them all.
    registry, bus = CollectorRegistry(), Bus()
    bus.attach(PrometheusInstrumenter(registry, namespace="namespace"))
    known = {line.split()[1] for line in lines}
    lines += [
        f"harken {family.name} {family.type}"
        for family in registry.collect()
        if family.name not in known
    ]
    bus.close()
    return "\n".join(sorted(lines)) + "\n"


MAKERS: dict[str, Callable[[], str]] = {
    "api.txt": api,
    "catalog.json": catalog,
    "metrics.txt": metrics,
    "record.json": record,
}


def _metric(instrument: Any) -> str:
    prefix = getattr(instrument, "prefix", "")
    namespace = "namespace" if prefix is None else prefix
    return f"{namespace}_{instrument.name}".lstrip("_")


def _without_prose(node: Any) -> Any:
    if isinstance(node, dict):
        return {
            key: _without_prose(value)
            for key, value in node.items()
            if key not in {"description", "title", "examples"} or isinstance(value, dict)
        }
    return [_without_prose(item) for item in node] if isinstance(node, list) else node


def _path_of(module: str) -> Path:
    path = SOURCE.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _tree_of(module: str) -> ast.Module:
    return _parsed(_path_of(module))


@cache
def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _public_modules(package: str) -> Iterator[str]:
    yield package
    names = {path.stem for path in _path_of(package).parent.iterdir() if path.stem[0] != "_"}
    for name in sorted(names - {"py"}):
        module = f"{package}.{name}"
        if package == "harken" and name in {*INNER, CATALOG}:
            continue
        if not _path_of(module).exists():
            continue
        # A package that says what it exports has nothing else to offer.
        if _path_of(module).name == "__init__.py" and _exported(_tree_of(module)) is None:
            yield from _public_modules(module)
        else:
            yield module


def _exported(tree: ast.Module) -> list[str] | None:
    for statement in tree.body:
        match statement:
            case ast.Assign(targets=[ast.Name(id="__all__")], value=value):
                names: list[str] = ast.literal_eval(value)
                return names
    return None


def _module_lines(module: str) -> Iterator[str]:
    tree = _tree_of(module)
    exported = _exported(tree)
    names = _own_names(tree) if exported is None else exported
    lines = list(chain.from_iterable(_lines_of(module, name) for name in sorted(set(names))))
    # Keyword arguments that several functions share are declared elsewhere.
    shared = sorted({name for line in lines for name in re.findall(r"Unpack\[(\w+)\]", line)})
    lines += chain.from_iterable(_lines_of(room, name) for name in shared for room in _rooms())
    if lines:
        yield f"module {module}"
        yield from (f"  {line}" for line in lines)


def _rooms() -> list[str]:
    return [f"harken.{path.stem}" for path in sorted((SOURCE / "harken").glob("[a-z]*.py"))]


def _own_names(tree: ast.Module) -> list[str]:
    return [name for statement in tree.body for name in _defined(statement) if name[0] != "_"]


def _defined(statement: ast.stmt) -> list[str]:
    match statement:
        case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
            return [name]
        case ast.Assign(targets=targets):
            return [target.id for target in targets if isinstance(target, ast.Name)]
        case ast.AnnAssign(target=ast.Name(id=name)):
            return [name]
        case ast.If(body=body):
            return [name for inner in body for name in _defined(inner)]
    return []


def _lines_of(module: str, name: str) -> Iterator[str]:
    tree = _tree_of(module)
    for statement in _flat(tree.body):
        if name in _defined(statement):
            yield from _declaration(statement, is_field=False)
        if isinstance(statement, ast.ImportFrom) and (statement.module or "").startswith("harken"):
            for alias in statement.names:
                if name == (alias.asname or alias.name):
                    yield from _lines_of(str(statement.module), alias.name)


def _flat(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    for statement in body:
        if isinstance(statement, ast.If):
            yield from _flat(statement.body)
        else:
            yield statement


def _declaration(statement: ast.stmt, *, is_field: bool = True) -> Iterator[str]:
    match statement:
        case ast.ClassDef(name=name, bases=bases, keywords=keywords, body=body):
            heads = [ast.unparse(base) for base in (*bases, *keywords)]
            yield f"class {name}({', '.join(heads)})"
            for inner in body:
                if any(
                    word[0] != "_" or word in {"__call__", "__init__"} for word in _defined(inner)
                ):
                    yield from (f"  {line}" for line in _declaration(inner))
        case ast.FunctionDef(name=name, args=args, returns=returns, decorator_list=decorators):
            marks = "".join(f"@{ast.unparse(one)} " for one in decorators)
            result = f" -> {ast.unparse(returns)}" if returns else ""
            yield f"{marks}def {name}({ast.unparse(args)}){result}"
        case ast.AsyncFunctionDef(name=name, args=args, returns=returns):
            result = f" -> {ast.unparse(returns)}" if returns else ""
            yield f"async def {name}({ast.unparse(args)}){result}"
        case ast.AnnAssign(target=target, annotation=annotation, value=value):
            # The value of a constant is no promise; the default of a field and an alias are.
            is_promised = is_field or ast.unparse(annotation) == "TypeAlias"
            default = f" = {ast.unparse(value)}" if value and is_promised else ""
            yield f"{ast.unparse(target)}: {ast.unparse(annotation)}{default}"
        case ast.Assign(targets=[target]):
            yield ast.unparse(target)


@pytest.mark.parametrize("name", MAKERS)
def test_nothing_has_changed_unannounced(name: str) -> None:
    """
    What others build on is as it is committed.
    """
    committed = (SNAPSHOTS / name).read_text(encoding="utf-8")
    made = MAKERS[name]()

    difference = difflib.unified_diff(
        committed.splitlines(), made.splitlines(), "committed", "now", lineterm="", n=0
    )
    assert committed == made, (
        f"{name} has changed; if that is meant, run `python tests/test_snapshots.py --write` and "
        "say it in CHANGELOG.md\n" + "\n".join(difference)
    )


def test_a_change_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A parameter that is renamed, a default that is another, and a name that is gone are changes.
    """
    before = api()
    for old, new in (("capacity: int", "room: int"), ("timeout: float", "timeout: int")):
        copy = tmp_path / old.partition(":")[0]
        _copy_changed(copy, old, new)
        monkeypatch.setattr(sys.modules[__name__], "SOURCE", copy)

        assert before != api()


def _copy_changed(target: Path, old: str, new: str) -> None:
    for path in SOURCE.rglob("*.py"):
        copied = target / path.relative_to(SOURCE)
        copied.parent.mkdir(parents=True, exist_ok=True)
        copied.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")


if __name__ == "__main__" and "--write" in sys.argv:
    for snapshot, maker in MAKERS.items():
        (SNAPSHOTS / snapshot).write_text(maker(), encoding="utf-8")
