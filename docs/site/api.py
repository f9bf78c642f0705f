"""
The API pages: what the public modules say about themselves, and what they leave unsaid.
"""

from __future__ import annotations

import ast
import enum
import inspect
from collections.abc import Iterator
from functools import cache
from importlib import import_module, util
from itertools import zip_longest
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src"
SNAPSHOT = ROOT / "tests" / "snapshots" / "api.txt"


def public_modules() -> list[str]:
    """
    Return the names of the modules that others import from: those that are promised.
    """
    lines = SNAPSHOT.read_text(encoding="utf-8").splitlines()
    return [line.removeprefix("module ") for line in lines if line.startswith("module ")]


def pages() -> dict[str, str]:
    """
    Return the pages by name.

    Raises:
        SystemExit: Something public has no docstring.
    """
    names = public_modules()
    missing = [line for name in names for line in undocumented(name)]
    if missing:
        raise SystemExit("no docstring:\n" + "\n".join(missing))
    rows = "\n".join(f"| [`{name}`]({name}.md) | {_first_line(name)} |" for name in names)
    listed = "\n".join(f"{name}.md" for name in names)
    index = (
        "# API\n\n| module | what is in it |\n|---|---|\n"
        f"{rows}\n\n```{{toctree}}\n:hidden:\n\n{listed}\n```\n"
    )
    return {"api/index.md": index, **{f"api/{name}.md": _page(name) for name in names}}


def _page(name: str) -> str:
    exported = "   :imported-members:\n" if _exports(name) else ""
    # An alias that is declared elsewhere is no member to autodoc.
    aliases = "".join(
        f"\n.. autodata:: {room}.{word}\n"
        for word, (room, _) in _exported_aliases(name).items()
        if room != name
    )
    return (
        f"# {name}\n\n```{{eval-rst}}\n.. automodule:: {name}\n   :members:\n{exported}"
        f"   :special-members: __call__\n{aliases}```\n"
    )


def _exported_aliases(name: str) -> dict[str, tuple[str, bool]]:
    """
    Return each type alias that the module *name* exports: where it is, and whether it says what.
    """
    if not _exports(name):
        return {}
    module = import_module(name)
    # A class may be called as an alias elsewhere is.
    words = (word for word in _public(module) if not inspect.isclass(getattr(module, word)))
    return {word: _aliases()[word] for word in words if word in _aliases()}


@cache
def _aliases() -> dict[str, tuple[str, bool]]:
    found: dict[str, tuple[str, bool]] = {}
    for path in sorted((SOURCE / "harken").glob("**/*.py")):
        room = ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")
        body = ast.parse(path.read_text(encoding="utf-8")).body
        for statement, after in zip_longest(body, body[1:]):
            match statement:
                case ast.AnnAssign(ast.Name(word), ast.Name("TypeAlias")) if (
                    ".cli" not in room and ".catalog" not in room
                ):
                    found[word] = (room, _is_docstring(after))
    return found


def _is_docstring(statement: ast.stmt | None) -> bool:
    match statement:
        case ast.Expr(value=ast.Constant(value=str())):
            return True
    return False


def _source(name: str) -> str:
    spec = util.find_spec(name)
    return Path(str(spec and spec.origin)).read_text(encoding="utf-8")


def _exports(name: str) -> bool:
    return "\n__all__ = " in _source(name)


def _first_line(name: str) -> str:
    # Read, not imported: a framework may not be installed.
    doc = _source(name).split('"""')[1].strip()
    return " ".join(doc.split("\n\n")[0].split()).replace("``", "`")


def undocumented(name: str) -> Iterator[str]:
    """
    Yield what is public in the module *name* and has no docstring.
    """
    try:
        module = import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("harken"):
            raise
        # Its framework is in no environment with others.
        return
    if not module.__doc__:
        yield name
    aliases = _exported_aliases(name).items()
    yield from (f"{name}.{word}" for word, (_, is_told) in aliases if not is_told)
    for word in _public(module):
        member = getattr(module, word)
        if not getattr(member, "__module__", "").startswith("harken"):
            continue
        if inspect.isclass(member):
            yield from _of_class(f"{name}.{word}", member)
        elif inspect.isfunction(member) and not inspect.getdoc(member):
            yield f"{name}.{word}()"


def _public(module: ModuleType) -> list[str]:
    exported: list[str] | None = getattr(module, "__all__", None)
    if exported is not None:
        return exported
    return [
        word
        for word, member in vars(module).items()
        if not word.startswith("_") and getattr(member, "__module__", None) == module.__name__
    ]


def _of_class(path: str, cls: type) -> Iterator[str]:
    if not cls.__doc__:
        yield path
    for word, member in vars(cls).items():
        if word.startswith("_") or isinstance(member, enum.Enum):
            continue
        is_method = isinstance(member, property | classmethod | staticmethod)
        if not is_method and not inspect.isfunction(member):
            continue
        is_attribute = f"\n        {word}:" in (cls.__doc__ or "")
        if not is_attribute and not inspect.getdoc(getattr(cls, word)):
            yield f"{path}.{word}"
