"""Signatures, `help()` and errors as a user sees them: readable defaults, public names."""

from __future__ import annotations

import importlib
import inspect
import pydoc
import re
import types
from collections.abc import Iterator
from typing import Any

import pytest

MODULES = ("trio_tasks", "trio_tasks.abc", "trio_tasks.layers", "trio_tasks.testing")
UNREADABLE = re.compile(r"<function [^>]*>|<[\w.]+ object[^>]*>|<factory>|<lambda>| at 0x[0-9a-f]+")
DATA = re.compile(r"^[ |]*__(dataclass_fields|orig_bases|annotations)__ = .*$", re.MULTILINE)  # of Python itself


def public() -> Iterator[tuple[str, Any]]:
    """Every public class and function, with where it is imported from."""
    for module in MODULES:
        home = importlib.import_module(module)
        for name in dir(home):
            each = getattr(home, name)
            if not name.startswith("_") and isinstance(each, (type, types.FunctionType)):
                yield f"{module}.{name}", each


def signatures(name: str, each: Any) -> Iterator[tuple[str, str]]:
    """The signature of a function, or of each public method of a class."""
    parts = inspect.getmembers(each, callable) if isinstance(each, type) else [("", each)]
    for part, function in [*parts, ("", each)]:
        if not part.startswith("_") or part == "__init__":
            try:
                yield f"{name}.{part}", str(inspect.signature(function))
            except (TypeError, ValueError):  # of a class in C
                continue


@pytest.mark.parametrize(("name", "each"), list(public()), ids=[name for name, _ in public()])
def test_help_and_signatures_can_be_read(name: str, each: Any) -> None:
    unreadable = [f"{where}{text}" for where, text in signatures(name, each) if UNREADABLE.search(text)]
    assert not unreadable
    text = DATA.sub("", pydoc.plain(pydoc.render_doc(each)))
    assert not UNREADABLE.findall(text)


def test_what_is_unreadable_is_seen() -> None:
    def with_default(function: object = print, sentinel: object = object(), *, key: object = lambda: 1) -> None: ...

    [(_, text), _] = signatures("x", with_default)
    assert len(UNREADABLE.findall(text)) >= 2
