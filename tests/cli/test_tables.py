"""Tables on terminals of any width."""

from __future__ import annotations

from typing import Any

import pytest
from rich.cells import cell_len
from trio_tasks._cli.looking import _TASK_COLUMNS
from trio_tasks._cli.output import Column, draw

ID = "01a21d24-56e0-71a7-b7a0-82a3110c0693"
ERROR = "ConnectionError: 421 too many connections from this host"


def a_task(**more: Any) -> dict[str, Any]:
    return {
        "queue": "emails", "id": ID, "name": "shop.mails.send_receipt", "status": "Failed", "attempt": 5,
        "pushed_at": None, "run_at": None, "error": ERROR, **more,
    }  # fmt: skip


@pytest.mark.parametrize("room", range(1, 170, 7))
def test_an_id_is_never_cut(room: int) -> None:
    lines = draw(_TASK_COLUMNS, [a_task(), a_task(id="7" * 300)], room).lines
    assert ID in lines[1].split() and "7" * 300 in lines[2].split()


def test_other_columns_give_way() -> None:
    whole = draw(_TASK_COLUMNS, [a_task()], None)
    assert whole.lines[1] == f"emails  {ID}  shop.mails.send_receipt  Failed        5  {ERROR}"
    for room in range(77, len(whole.lines[1]) + 1):
        drawn = draw(_TASK_COLUMNS, [a_task()], room)
        assert max(map(cell_len, drawn.lines)) <= room
        assert drawn.left_out == (["attempt"] if room < 85 else [])
    assert draw(_TASK_COLUMNS, [a_task()], 80).lines[1] == f"emails  {ID}  shop.mails.…  Failed  ConnectionE…"


def test_wide_characters_and_empty_columns() -> None:
    columns = [Column("a", lambda r: r["a"], least=3), Column("b", lambda r: r["b"]), Column("c", lambda r: r["c"])]
    lines = draw(columns, [{"a": "日本語", "b": "", "c": "x"}, {"a": "é", "b": "", "c": "y"}], 8).lines
    assert lines == ["a      c", "日本…  x", "é      y"]
    assert draw(columns, [], 8).lines == []
