"""
How Sphinx builds the site from what `assemble.py` has put together.
"""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import inspect
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.environment import BuildEnvironment
from sphinx.util.logging import getLogger

import harken

ROOT = Path(__file__).resolve().parents[2]
logger = getLogger(__name__)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

project = PROJECT["name"]
version = release = harken.__version__
author = copyright = PROJECT["authors"][0]["name"]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["colon_fence", "attrs_block"]
myst_heading_anchors = 3

default_role = "py:obj"
add_module_names = False
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
# Fields of a frozen value are told in its docstring, under "Attributes".
autodoc_default_options = {"members": True}
# What extras bring; the site can be built without any of them.
OPTIONAL = (
    *("agents", "claude_agent_sdk", "crewai", "google.adk", "langchain_core", "mcp", "nats"),
    *("pydantic_ai", "redis", "strands"),
)


def is_here(name: str) -> bool:
    """
    Return whether there is a module called *name*.
    """
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


autodoc_mock_imports = [name for name in OPTIONAL if not is_here(name)]
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
python_use_unqualified_type_names = True

html_theme = "furo"
html_title = f"harken {version}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False


def know_what_checkers_know(name: str) -> None:
    """
    Import what the module *name* imports for type checkers only: signatures are resolved with it.
    """
    module = sys.modules[name]
    for statement in ast.parse(inspect.getsource(module)).body:
        match statement:
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                block = ast.Module(statement.body, [])
                exec(compile(block, name, "exec"), vars(module))


for room in ("harken.envelope", "harken.scope"):
    know_what_checkers_know(room)

_version = importlib.metadata.version


def version_of(name: str) -> str:
    """
    Return the version of a distribution; adapters ask for that of a framework that is not here.
    """
    try:
        return _version(name)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


importlib.metadata.version = version_of


def with_made_files(app: Sphinx, config: Config) -> None:
    """
    Publish what was made for the site beside its pages.
    """
    config.html_extra_path = [str(app.srcdir / "_extra")]


def by_last_name(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, contnode: nodes.Element
) -> nodes.Element | None:
    """
    Resolve what a docstring names without its module, where only one thing is called so.
    """
    if node.get("refdomain") != "py":
        return None
    wanted = node["reftarget"].removesuffix("()")
    objects = list(env.domains["py"].get_objects())
    found = {
        (docname, anchor)
        for name, _, _, docname, anchor, _ in objects
        if name == wanted or name.endswith(f".{wanted}")
    }
    if not found and node["reftype"] == "obj" and _is_said_to_be_ours(wanted, objects):
        logger.warning("there is no %s", wanted, location=node, type="ref")
    if len(found) != 1:
        return None
    docname, anchor = found.pop()
    reference = nodes.reference("", "", contnode, internal=True)
    reference["refuri"] = f"{app.builder.get_relative_uri(node['refdoc'], docname)}#{anchor}"
    return reference


def _is_said_to_be_ours(wanted: str, objects: Iterable[tuple[str, ...]]) -> bool:
    """
    Return whether *wanted* is written as a member of harken, or of one of its classes.
    """
    owner, *inner = wanted.split(".")
    if not inner or not all(map(str.isidentifier, inner)):
        return False
    classes = {name.rpartition(".")[2] for name, _, kind, *_ in objects if kind == "class"}
    return owner in {"harken", *classes}


def with_colons(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """
    Keep the first sentence of what has a type whole.
    """
    if what in {"attribute", "data", "property"}:
        # Napoleon takes what stands before a colon in the first line for the type. An empty
        # comment has no colon.
        lines[:0] = ["..", ""]


def setup(app: Sphinx) -> None:
    """
    Take part in the build.
    """
    app.connect("config-inited", with_made_files)
    app.connect("missing-reference", by_last_name)
    app.connect("autodoc-process-docstring", with_colons, priority=400)
