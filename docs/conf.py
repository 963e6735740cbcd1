"""The configuration of Sphinx. It also makes the drawings and tables, so that they are never out of date."""

from __future__ import annotations

import ast
import importlib
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docutils import nodes
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.nodes import make_refnode

if TYPE_CHECKING:
    from sphinx.addnodes import pending_xref
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

project = "trio_tasks"
author = "the trio_tasks authors"
project_copyright = "the trio_tasks authors"

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.extlinks"]
highlight_language = "text"  # all Python on these pages comes out of a file, by literalinclude
exclude_patterns = ["_build", "_generated", "examples", "drawings", "tables"]

# There are no inventories of other projects here, so their names cannot be links. The rest are type variables, and
# types that only this project's own modules name.
nitpick_ignore_regex = [
    ("py:.*", r"(trio|trio_util|collections|datetime|logging|signal|time|typing|outcome)\..*"),
    ("py:class", r"(trio_tasks\.(\w+\.)?_\w+\.)?([A-Z](_co)?|_\w+|Factory|Terms|CountingLayer|AbstractContextManager)"),
    ("py:class", r"Conformance|Writer"),
]

html_theme = "furo"
html_title = "trio_tasks"
html_static_path = ["_static"]
html_css_files = ["trio_tasks.css"]
html_show_sourcelink = False

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True

# Every claim about another library is pinned to the commit at which it was read.
_READ_AT = {
    "apalis": ("apalis-dev/apalis", "fbe4db276b09f44cefd482a8a0de1a3d2c9f0669"),
    "apscheduler": ("agronholm/apscheduler", "f2337f7aa675718ba5f0af33e0cb53006304ab0a"),
    "arq": ("python-arq/arq", "3914e48c530f0e5acf02cb340b1f8f3e201ba895"),
    "dramatiq": ("Bogdanp/dramatiq", "848b35f2f960457ff54a72f9edb3af0de754f72f"),
    "streaq": ("tastyware/streaq", "56567dc3797e89ac4470ac3998b432024b527c90"),
    "taskiq": ("taskiq-python/taskiq", "ae2b788007a4c985394dda913f4df875ec79711a"),
    "taskiq-redis": ("taskiq-python/taskiq-redis", "374c789739b63f6cec765a09d71606193be26197"),
}
extlinks = {
    name: (f"https://github.com/{repository}/blob/{commit}/%s", "%s") for name, (repository, commit) in _READ_AT.items()
}


def _generate() -> None:
    sources = [str(HERE / "drawings"), str(HERE / "tables")]
    sys.path[:0] = sources
    try:
        target = HERE / "_generated"
        target.mkdir(exist_ok=True)
        for name in ("floors", "shutdown"):
            svg = importlib.import_module(name).draw()
            (target / f"{name}.svg").write_text(svg, encoding="utf-8")
        table = importlib.import_module("capabilities").table()
        (target / "capabilities.rst").write_text(table, encoding="utf-8")
    finally:
        del sys.path[: len(sources)]


_generate()

_SHOWN_AS = {
    "LaneOptions": ("reference/storages", "storage-options"),
    "MemoryOptions": ("reference/backends", "memory-options"),
}
"""What has no public name, but a place where it is described: its page, and the anchor there."""

_PUBLIC = ("trio_tasks", "trio_tasks.abc", "trio_tasks.layers", "trio_tasks.testing")


def _find_where_it_is_public(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, contents: nodes.TextElement
) -> nodes.reference | None:
    """Signatures name a class as the module does that it is written in: link it to where it is documented."""
    if node.get("refdomain") != "py":
        return None
    objects: dict[str, Any] = env.get_domain("py").objects  # type: ignore[attr-defined]  # the Python domain has them
    name = re.sub(r"^trio_tasks\.(\w+\.)?_\w+\.", "", node["reftarget"])
    if name in _SHOWN_AS:
        return make_refnode(app.builder, node["refdoc"], *_SHOWN_AS[name], contents)
    name = name.replace("StoredBackend.", "SqliteStorage.")  # the body, which is described where most people meet it
    around = (node.get("py:class"), "Backend", "TaskSink")  # what is said of these holds for all that inherit from them
    places = [f"{module}.{each}" for each in (name, *(f"{kind}.{name}" for kind in around)) for module in _PUBLIC]
    for place in places:
        if place in objects:
            found = objects[place]
            return make_refnode(app.builder, node["refdoc"], found.docname, found.node_id, contents, place)
    return None


def _say_where_it_is_written() -> None:
    """Public classes say that they live where they are public. Autodoc has to know where they are written, or it finds
    no docstrings of attributes. Overloads are for type checkers: to people, one signature says more."""
    package = HERE.parent / "trio_tasks"
    for path in sorted(package.rglob("_[a-z]*.py")):
        name = ".".join(path.relative_to(HERE.parent).with_suffix("").parts)
        module = importlib.import_module(name)
        analyzer = ModuleAnalyzer.for_module(name)
        analyzer.analyze()
        analyzer.overloads.clear()
        for statement in ast.parse(path.read_text("utf-8")).body:
            if isinstance(statement, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                getattr(module, statement.name).__module__ = name


_COLON = "\ua789"


def _hide_colons(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Of a property, what stands before a colon is not its type."""
    if what in ("property", "attribute"):
        lines[:] = [line.replace(": ", f"{_COLON} ") for line in lines]


def _show_colons(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    lines[:] = [line.replace(_COLON, ":") for line in lines]


def _trim(app: Sphinx, doctree: nodes.document) -> None:
    """A piece of a file that ends before something has empty lines at its end."""
    for block in doctree.findall(nodes.literal_block):
        text = block.astext().strip("\n")
        if block.rawsource == block.astext():
            block.rawsource = text
            block.children = []
            block.append(nodes.Text(text))


def setup(app: Sphinx) -> None:
    _say_where_it_is_written()
    app.connect("doctree-read", _trim)
    app.connect("missing-reference", _find_where_it_is_public)
    app.connect("autodoc-process-docstring", _hide_colons, priority=400)  # before napoleon, which has 500
    app.connect("autodoc-process-docstring", _show_colons, priority=600)
