"""Tests of the table of capabilities in the docs: it is generated from the code."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

from trio_tasks import MemoryStorage
from trio_tasks._backends.mirroring import CAPABILITIES

DOCS = Path(__file__).parents[1] / "docs"


def capabilities() -> Any:
    """The module that makes the table."""
    spec = importlib.util.spec_from_file_location("capabilities", DOCS / "tables" / "capabilities.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_says_what_isinstance_says() -> None:
    module = capabilities()
    lines = list(module.lines())
    assert len(lines) == len(CAPABILITIES) + len(module.METHODS)
    column = [*module.backends()].index("Memory")
    storage = MemoryStorage[int]()
    assert [cans[column] for _, _, cans in lines[: len(CAPABILITIES)]] == [isinstance(storage, c) for c in CAPABILITIES]


def test_all_storages_can_do_the_same() -> None:
    """But for the fast path, which is that of memory; what needs a transaction of the user's; and the transfer to
    another store, since in memory nothing is encoded.
    """
    module = capabilities()
    columns = [*module.backends()]
    storages = [columns.index(name) for name in ("Memory", "SQLite", "File")]
    differ = {name for name, _, cans in module.lines() if len({cans[column] for column in storages}) > 1}
    assert differ == {"`NowaitBackend`", "`push_in`", "`statistics`", "`TransferTasks`"}


def test_the_table_is_on_a_page_with_a_cell_for_each_answer() -> None:
    module = capabilities()
    table: str = module.table()
    assert {re.sub(r"`[^`]*`", "", row).count("|") for row in table.splitlines()} == {len(module.backends()) + 3}
    assert f"<!-- table: capabilities -->\n{table}" in (DOCS / "reference" / "abc.md").read_text("utf-8")
