"""Tests of the rule against short time limits on the real clock, and of its exceptions."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from tests._real_time import ALLOWED

ROOT = Path(__file__).parent


@pytest.mark.parametrize("bound", ["fail_after", "move_on_after"])
async def test_a_short_bound_on_the_real_clock_is_refused(bound: str) -> None:
    with pytest.raises(AssertionError, match="a bound of 59 s on the real clock"), getattr(trio, bound)(59):
        await trio.lowlevel.checkpoint()
    with getattr(trio, bound)(60):
        await trio.lowlevel.checkpoint()


async def test_in_virtual_time_a_bound_may_be_short(autojump_clock: MockClock) -> None:
    with trio.move_on_after(1) as scope:
        await trio.sleep(2)
    assert scope.cancelled_caught


@pytest.mark.parametrize(("path", "function"), ALLOWED)
def test_each_exception_is_a_function(path: str, function: str) -> None:
    names = {getattr(node, "name", "") for node in ast.walk(ast.parse((ROOT / path).read_text("utf-8")))}
    assert function in names
