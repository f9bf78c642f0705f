"""
Put the sources of the site together: the pages of docs, and those that follow from the code.

    python docs/site/assemble.py FOLDER [RESULTS...]

RESULTS are files that Behave's JSON formatter has written, one for each Python.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import api
import behaviour
import reference

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
# Pages that stand where a code host looks for them.
AT_THE_TOP = ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
EXAMPLE = ROOT / "examples" / "clerk" / "README.md"

_LINK = re.compile(r"\]\(([^)#:]+)(#[^)]*)?\)")
_SECTION = re.compile(r"^## (.+)$", re.MULTILINE)


def main(out: Path, results: list[Path]) -> None:
    """
    Write everything that Sphinx reads into the folder *out*, which is emptied before.
    """
    shutil.rmtree(out, ignore_errors=True)
    (out / "_extra").mkdir(parents=True)
    for path, page in _written():
        _write(out / page, _moved(path.read_text(encoding="utf-8"), page))
    for path in DOCS.rglob("*"):
        if path.suffix in {".conf", ".json", ".svg"} and "site" not in path.parts:
            target = out / path.relative_to(DOCS)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    made = {**reference.pages(), **api.pages(), **behaviour.pages(results)}
    for name, text in made.items():
        _write(out / name, text)
    _write(out / "_extra" / "catalog.schema.json", reference.catalog_schema())
    _write(out / "index.md", _with_contents((out / "index.md").read_text(encoding="utf-8"), made))


def _written() -> Iterator[tuple[Path, Path]]:
    """
    Yield the pages that somebody has written, each with its place on the site.
    """
    for path in sorted(path for path in DOCS.rglob("*.md") if "site" not in path.parts):
        page = path.relative_to(DOCS)
        yield path, page.with_name("index.md") if page.name == "README.md" else page
    yield from ((ROOT / name, Path(name)) for name in AT_THE_TOP)
    yield EXAMPLE, Path("example.md")


def _moved(text: str, page: Path) -> str:
    """
    Return *text* with links that work on the site, where all pages stand below one folder.
    """

    def link(match: re.Match[str]) -> str:
        target, anchor = match[1], match[2] or ""
        name = target.rpartition("/")[2]
        if name in AT_THE_TOP:
            up = "../" * (len(page.parts) - 1)
            target = f"{up}{name}"
        elif "examples/" in target:
            target = "example.md"
        elif "docs/" in target:
            target = target.partition("docs/")[2]
        elif target.rstrip("/").endswith("features"):
            target = "behaviour/index.md"
        elif target.endswith("README.md"):
            target = f"{target.removesuffix('README.md')}index.md"
        return f"]({target}{anchor})"

    return _LINK.sub(link, text)


def _with_contents(index: str, made: dict[str, str]) -> str:
    """
    Return the front page with the pages of each section as the contents of the site.
    """
    generated = [name for name in made if name.count("/") == 1 and _is_top(name)]
    parts = _SECTION.split(index)
    text = parts[0]
    for title, body in zip(parts[1::2], parts[2::2], strict=True):
        listed = [match[1] for match in _LINK.finditer(body) if match[1].endswith(".md")]
        if title == "Reference":
            listed += generated
        # Written by the benchmarks; there are none before they have run.
        if title == "Explanation" and (DOCS / "performance" / "README.md").exists():
            listed.append("performance/index.md")
        entries = "\n".join(dict.fromkeys(listed))
        text += f"## {title}{body.rstrip()}\n\n```{{toctree}}\n:hidden:\n:caption: {title}\n\n"
        text += f"{entries}\n```\n\n"
    return text


def _is_top(name: str) -> bool:
    folder, _, page = name.partition("/")
    return folder == "reference" or (folder == "api" and page == "index.md")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(argument) for argument in sys.argv[2:]])
