"""Code, outputs and tables on the pages: ``python -m tests.docs_fences`` compares, ``--write`` brings them up to date.

A marker stands above each of them. The path is relative to ``docs/examples``, or to the root of the project:

    <!-- example: hello.py -->                   the whole program
    <!-- example: shop.py Bank..sell -->         from the definition of Bank to that of sell, with the comments above
    <!-- example: spool.py Spool.settle -->      one method, without its indentation
    <!-- example: notebook.ipynb -->             the code of all cells
    <!-- output: hello.out -->                   what the program prints; ``3-9`` after the name: these lines of it
    <!-- table: capabilities -->                 a table made from the code, up to <!-- end -->
    <!-- table: names workers -->                the same, with the page that the table is about
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import json
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
EXAMPLES = DOCS / "examples"
LANGUAGES = {"example": "python", "output": "text", ".service": "ini", "Dockerfile": "docker"}
DRAWINGS = ("folders", "journey", "shutdown")

_BLOCK = re.compile(
    r"^(?P<indent> *)<!-- (?P<kind>example|output|table): (?P<name>\S+)(?: (?P<part>\S+))? -->\n"
    r"(?P<body>(?: *```\w*\n(?s:.*?)^ *```$)|(?:(?s:.*?)^ *<!-- end -->$))",
    re.MULTILINE,
)


class Block(NamedTuple):
    """A marked block of a page: its source, and its present text."""

    kind: str
    name: str
    part: str
    indent: str
    body: str

    def fresh(self) -> str:
        """Return the block as it should be."""
        if self.kind == "table":
            lines = [*_tool("tables", self.name).table(*self.part.split()).splitlines(), "<!-- end -->"]
        else:
            path = EXAMPLES / self.name if (EXAMPLES / self.name).is_file() else ROOT / self.name
            source = _cells_of(path) if path.suffix == ".ipynb" else path.read_text("utf-8")
            text = _lines_of(source, self.part) if self.kind == "output" else part_of(source, self.part)
            language = LANGUAGES.get(path.suffix or path.name, LANGUAGES[self.kind])
            lines = [f"```{language}", *text.strip("\n").splitlines(), "```"]
        return "\n".join(f"{self.indent}{line}" if line else "" for line in lines)


def pages() -> list[Path]:
    """Each page that is written by hand, in any folder that people read."""
    top = [path for path in sorted(ROOT.glob("*.md")) if path.name != "CHANGELOG.md"]
    return [*top, *(path for path in sorted(DOCS.rglob("*.md")) if not path.is_relative_to(DOCS / "_build"))]


def blocks(text: str) -> Iterator[Block]:
    """The marked blocks of a page."""
    for found in _BLOCK.finditer(text):
        yield Block(found["kind"], found["name"], found["part"] or "", found["indent"], found["body"])


def renewed(text: str) -> str:
    """The text of a page with all its blocks as they should be."""

    def renew(found: re.Match[str]) -> str:
        block = Block(found["kind"], found["name"], found["part"] or "", found["indent"], found["body"])
        return found[0][: -len(block.body)] + block.fresh()

    return _BLOCK.sub(renew, text)


def part_of(source: str, part: str) -> str:
    """The definitions that a marker names, with the comments above them; without a name, the whole source."""
    if not part:
        return source
    first, _, last = part.partition("..")
    *outer, name = first.split(".")
    body = ast.parse(source).body
    for each in outer:
        node = body[_index(body, each)]
        assert isinstance(node, ast.ClassDef), f"{each} is no class"
        body = node.body
    begin, end = _index(body, name), _index(body, last or name)
    above = body[begin - 1].end_lineno or 0 if begin else 0
    lines = source.splitlines()[above : body[end].end_lineno]
    return textwrap.dedent("\n".join(lines)).strip("\n")


def _index(body: list[ast.stmt], name: str) -> int:
    for number, node in enumerate(body):
        if name in _names(node):
            return number
    raise LookupError(f"no definition of {name}")


def _names(node: ast.stmt) -> set[str]:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return {node.name}
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return {"imports"}
    if isinstance(node, ast.AnnAssign):
        return {ast.unparse(node.target)}
    return {ast.unparse(target) for target in node.targets} if isinstance(node, ast.Assign) else set()


def _lines_of(text: str, part: str) -> str:
    if not part:
        return text
    first, last = map(int, part.split("-"))
    return "\n".join(text.splitlines()[first - 1 : last])


def _cells_of(notebook: Path) -> str:
    cells = json.loads(notebook.read_text("utf-8"))["cells"]
    return "\n\n".join(f"# Cell {number}\n{''.join(cell['source'])}" for number, cell in enumerate(cells, start=1))


def _tool(folder: str, name: str) -> Any:
    """A module of docs/tables or docs/drawings."""
    directory = str(DOCS / folder)
    spec = importlib.util.spec_from_file_location(name, DOCS / folder / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, directory)
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(directory)
    return module


def expected() -> Iterator[tuple[Path, str]]:
    """Each page and each drawing, and its text as it should be."""
    for page in pages():
        yield page, renewed(page.read_text("utf-8"))
    for name in DRAWINGS:
        yield DOCS / "drawings" / f"{name}.svg", f"{_tool('drawings', name).draw().strip()}\n"


def main() -> int:
    """Compare, or write; the exit status is 1 if something differs and was not written."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="bring the pages and drawings up to date")
    write = parser.parse_args().write
    stale = [(path, text) for path, text in expected() if not path.is_file() or path.read_text("utf-8") != text]
    for path, text in stale:
        print(f"{path.relative_to(ROOT)} {'is written' if write else 'is out of date'}")
        if write:
            path.write_text(text, "utf-8")
    return int(bool(stale) and not write)


if __name__ == "__main__":
    sys.exit(main())
