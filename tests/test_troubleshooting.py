"""Tests of the troubleshooting page: each message and error on it exists in the library."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import trio_tasks

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "howto" / "troubleshooting.md"
FOREIGN = {"database is locked", "sqlite3.OperationalError", "trio.TooSlowError", "storage.close()"}


def texts(node: ast.AST) -> Iterator[str]:
    """The texts in a piece of source, with … for what is filled in."""
    if isinstance(node, ast.JoinedStr):
        yield "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
        return
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield re.sub(r"%[.\d]*[a-z]", "…", node.value)
    for child in ast.iter_child_nodes(node):
        yield from texts(child)


@cache
def everything_said() -> str:
    sources = sorted((ROOT / "trio_tasks").rglob("*.py"))
    return "\n".join(text for path in sources for text in texts(ast.parse(path.read_text("utf-8"))))


def symptoms() -> list[str]:
    """What is quoted in the first column of the tables."""
    rows = re.findall(r"^\| (.*?) \|", PAGE.read_text("utf-8"), re.MULTILINE)
    return [quote.strip("` ") for row in rows for quote in re.findall(r"`` .+? ``|`[^`]+`", row)]


def is_said(quote: str) -> bool:
    words = ".*?".join(re.escape(piece.strip()) for piece in quote.strip("… ").split("…"))
    return re.search(words, everything_said()) is not None


@pytest.mark.parametrize("quote", sorted({*symptoms()} - FOREIGN))
def test_each_message_on_the_page_is_in_the_source(quote: str) -> None:
    if re.fullmatch(r"\w+Error", quote):
        assert hasattr(trio_tasks, quote)
        return
    if re.fullmatch(r"\S+", quote):  # an option, or the name of a file
        return
    assert is_said(quote)


def test_these_tests_see_a_message_that_is_gone() -> None:
    assert len(symptoms()) > 30
    assert is_said("is taken by the unfinished task")
    assert not is_said("nobody has ever said this")
