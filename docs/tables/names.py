"""The table of the names that a page of the reference describes, each with the first sentence of its docstring."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trio_tasks._backends.mirroring import CAPABILITIES

if TYPE_CHECKING:
    from collections.abc import Iterator

REFERENCE = Path(__file__).parents[1] / "reference"

DIRECTIVE = re.compile(
    r"^\.\. (?P<auto>auto)?(?:class|exception|function|data):: +(?P<name>[\w.]+).*\n(?P<body>(?:\n|   .*\n)*)",
    re.MULTILINE,
)
OPTION = re.compile(r"^   :(?P<name>[\w-]+):(?P<value>.*)$", re.MULTILINE)
NESTED = re.compile(r"^   \.\. automethod:: (\w+)", re.MULTILINE)

VALUES = {
    "FaultKind": "The name of a kind of fault, such as `drop` or `delay`.",
}
"""Values whose docstring is that of another class."""


def in_markdown(text: str) -> str:
    """The text of a docstring with its roles and literals as inline code."""
    text = re.sub(r":\w+:`~?(?:[\w.]+\.)?(\w+)`", r"`\1`", " ".join(text.split()))
    return text.replace("``", "`").replace("|", "\\|")


def first_sentence(text: str) -> str:
    """The first sentence of a docstring, in Markdown."""
    paragraph = in_markdown(inspect.cleandoc(text).partition("\n\n")[0])
    found = re.match(r".*?\.(?= [A-Z`]|$)", paragraph)
    return found[0] if found else paragraph


def methods_of(each: object, body: str) -> Iterator[str]:
    """The methods and properties that the page describes with a class."""
    options = {found["name"]: re.findall(r"\w+", found["value"]) for found in OPTION.finditer(body)}
    if "members" in options:
        names = options["members"] or own_methods(each, inherited="inherited-members" in options)
        yield from (name for name in dict.fromkeys(names) if name not in options.get("exclude-members", []))
    yield from NESTED.findall(body)


def own_methods(each: object, *, inherited: bool) -> list[str]:
    """The public methods and properties of a class that have a docstring; inherited: with those of our base classes."""
    mro = type.mro(each) if isinstance(each, type) else []
    bases = [base for base in mro if base.__module__.startswith("trio_tasks")]
    return [
        name
        for base in bases[: None if inherited else 1]
        for name, value in vars(base).items()
        if inspect.isroutine(value) or isinstance(value, (property, classmethod, staticmethod))
        if not name.startswith("_") and value.__doc__
    ]


def lines(page: str) -> Iterator[tuple[str, str]]:
    """Each name that the page describes, with a sentence; without those in the table of capabilities."""
    text = (REFERENCE / f"{page}.md").read_text("utf-8")
    for found in DIRECTIVE.finditer(text):
        module, _, name = found["name"].rpartition(".")
        each: Any = getattr(importlib.import_module(module), name)
        if page == "abc" and each in CAPABILITIES:
            continue
        about = VALUES.get(name) or (each.__doc__ if found["auto"] else found["body"])
        methods = ", ".join(f"`{method}`" for method in methods_of(each, found["body"]))
        yield name, " ".join(filter(None, (first_sentence(about), methods and f"Methods and properties: {methods}.")))


def table(page: str) -> str:
    """The table of a page, in Markdown."""
    rows = [["Name", "Is"], ["---", "---"], *([f"`{name}`", sentence] for name, sentence in lines(page))]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
