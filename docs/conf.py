"""The configuration of Sphinx.

The pages are plain Markdown, which a code host shows too. What only a site can have is added here.
"""

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

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
highlight_language = "text"  # Python on these pages says that it is
exclude_patterns = ["_build", "examples", "drawings", "tables"]
myst_heading_anchors = 4  # named as a code host does it

# There are no inventories of other projects here, so their names cannot be links. The rest are type variables, and
# types that only this project's own modules name.
nitpick_ignore_regex = [
    ("py:.*", r"(trio|trio_util|collections|datetime|logging|signal|time|typing|outcome)\..*"),
    ("py:class", r"(trio_tasks\.([a-z_]+\.)+)?([A-Z](_co)?|_\w+|Factory|Terms|CountingLayer|AbstractContextManager)"),
    ("py:class", r"MissedPolicy|OverlapPolicy|StoredState|UniqueUntil|AbstractAsyncContextManager"),
    (
        "py:class",
        r"AnyStorage|Background|Conformance|Writer|ExplanationKind|datetime|date|ZoneInfo|TracerProvider|Metric|CollectorRegistry|Meter|Health",
    ),
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

_SHOWN_AS = {
    "MemoryOptions": ("reference/backends", "trio_tasks.MemoryStorage"),
}
"""What has no public name, but a place where it is described: its page, and the anchor there."""

_PUBLIC = ("trio_tasks", "trio_tasks.abc", "trio_tasks.layers", "trio_tasks.observe", "trio_tasks.testing")


def _find_where_it_is_public(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, contents: nodes.TextElement
) -> nodes.reference | None:
    """Signatures name a class as the module does that it is written in: link it to where it is documented."""
    if node.get("refdomain") != "py":
        return None
    objects: dict[str, Any] = env.get_domain("py").objects  # type: ignore[attr-defined]  # the Python domain has them
    name = re.sub(r"^trio_tasks\.(?=(\w+\.)?_)([a-z_]+\.)+", "", node["reftarget"])
    if name in _SHOWN_AS:
        return make_refnode(app.builder, node["refdoc"], *_SHOWN_AS[name], contents)
    name = name.replace("DurableStorage.", "SqliteStorage.")  # the body, which is described where most people meet it
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
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).parts
        if path.name.startswith("__") or not any(part.startswith("_") for part in parts):
            continue
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


_PARTS = [
    ("Learn", ["tutorial/index", "demo", "demo_sessions", "howto/index"]),
    ("Understand", ["explanation/index", "promises", "glossary"]),
    (
        "Look up",
        [
            "reference/index",
            "compared_with",
            "coming_from_celery",
            "coming_from_arq",
            "coming_from_huey",
            "coming_from_apalis",
        ],
    ),
    ("Contribute", ["contributing/index"]),
]


def _make_part_of_the_site(app: Sphinx, docname: str, source: list[str]) -> None:
    """Give an index page the table of contents that its own links make; and unlink what is outside of the site."""
    source[0] = re.sub(r"\[([^\]]+)\]\((?:\.\./)+([A-Z]+\.md)\)", r"\1 (`\2`)", source[0])  # not a page of the site
    toctree = "\n```{{toctree}}\n:hidden:\n:caption: {}\n\n{}\n```\n"
    if docname == "index":
        source[0] += "".join(toctree.format(caption, "\n".join(names)) for caption, names in _PARTS)
    elif docname.endswith("/index"):
        names = dict.fromkeys(re.findall(r"\]\((\w+)\.md\)", source[0]))
        source[0] += toctree.replace(":caption: {}\n", "").format("\n".join(names))


def _set_drawings_inline(app: Sphinx, doctree: nodes.document) -> None:
    """Put a drawing itself into the page, so that it takes the theme's colours."""
    for image in list(doctree.findall(nodes.image)):
        drawing = HERE / "drawings" / Path(image["uri"]).name
        if drawing.suffix == ".svg" and drawing.is_file():
            image.replace_self(nodes.raw("", drawing.read_text("utf-8"), format="html"))


def _link_names(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Make a link of inline code that is a public name."""
    objects: dict[str, Any] = app.env.get_domain("py").objects  # type: ignore[attr-defined]  # the Python domain has them
    for literal in list(doctree.findall(nodes.literal)):
        name = literal.astext()
        place = next((f"{module}.{name}" for module in _PUBLIC if f"{module}.{name}" in objects), None)
        if place is None or isinstance(literal.parent, (nodes.reference, nodes.title)):
            continue
        found = objects[place]
        literal.replace_self(
            make_refnode(app.builder, docname, found.docname, found.node_id, literal.deepcopy(), place)
        )


def setup(app: Sphinx) -> None:
    _say_where_it_is_written()
    app.connect("source-read", _make_part_of_the_site)
    app.connect("doctree-read", _set_drawings_inline)
    app.connect("doctree-resolved", _link_names)
    app.connect("missing-reference", _find_where_it_is_public)
    app.connect("autodoc-process-docstring", _hide_colons, priority=400)  # before napoleon, which has 500
    app.connect("autodoc-process-docstring", _show_colons, priority=600)
