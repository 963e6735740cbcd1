"""Tests of the reference: it has every public name and no other, and the promises name tests that exist."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path
from types import FunctionType, ModuleType
from typing import get_origin

import pytest

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "docs" / "reference"

MODULES = {
    "trio_tasks": "trio_tasks/__init__.py",
    "trio_tasks.abc": "trio_tasks/abc.py",
    "trio_tasks.layers": "trio_tasks/layers/__init__.py",
    "trio_tasks.observe": "trio_tasks/observe/__init__.py",
    "trio_tasks.testing": "trio_tasks/testing/__init__.py",
}

DIRECTIVE = re.compile(r"^\.\. (?:auto)?(?:class|exception|function|data):: +([\w.]+)", re.MULTILINE)


def public_names(source: str) -> set[str]:
    """What a module offers: the names that it imports as themselves."""
    return {
        alias.name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname == alias.name
    }


def documented() -> list[str]:
    """Each name that a page of the reference describes."""
    return [name for page in sorted(REFERENCE.glob("*.md")) for name in DIRECTIVE.findall(page.read_text("utf-8"))]


def place_of(module: str, name: str) -> str:
    """Where a public thing is at home: a contract may be offered in two places."""
    home = importlib.import_module("trio_tasks")
    there = getattr(importlib.import_module(module), name)
    return f"trio_tasks.{name}" if getattr(home, name, None) is there else f"{module}.{name}"


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_is_in_the_reference(module: str) -> None:
    names = public_names((ROOT / MODULES[module]).read_text("utf-8"))
    assert names, f"{module} offers nothing"
    assert not {place_of(module, name) for name in names} - set(documented())


@pytest.mark.parametrize("module", MODULES)
def test_a_star_brings_every_public_name_and_no_other(module: str) -> None:
    there: dict[str, object] = {}
    exec(f"from {module} import *", there)  # since a star is legal at the top of a module only
    del there["__builtins__"]
    names = {name for name, each in there.items() if not isinstance(each, ModuleType)}
    assert names == public_names((ROOT / MODULES[module]).read_text("utf-8"))


def test_nothing_else_is_in_the_reference() -> None:
    places = {
        place_of(module, name)
        for module, path in MODULES.items()
        for name in public_names((ROOT / path).read_text("utf-8"))
    }
    assert not set(documented()) - places


def test_nothing_is_described_twice() -> None:
    names = documented()
    assert not {name for name in names if names.count(name) > 1}


@pytest.mark.parametrize("module", MODULES)
def test_every_public_class_and_function_has_a_docstring(module: str) -> None:
    names = public_names((ROOT / MODULES[module]).read_text("utf-8"))
    things = {name: getattr(importlib.import_module(module), name) for name in names}
    made_by_us = {
        name: each for name, each in things.items() if isinstance(each, (type, FunctionType)) and not get_origin(each)
    }
    assert not [name for name, each in made_by_us.items() if not (each.__doc__ or "").strip()]


def test_every_promise_names_its_tests() -> None:
    text = (ROOT / "docs" / "promises.md").read_text("utf-8")
    named: list[str] = re.findall(r"`(tests/[^`]+)`", text)
    assert len({name for name in named if "/test_promise_" in name}) == 14
    assert not [name for name in named if not list(ROOT.glob(name))]


def test_these_tests_know_a_public_name() -> None:
    assert public_names("from ._a import B as B, c\nfrom ._d import (\n    E as E,\n)\nimport f as f") == {"B", "E"}
    assert DIRECTIVE.findall(".. autoclass:: a.B(c)\n\n   .. automethod:: d\n\n.. data:: e.F\n") == ["a.B", "e.F"]
