"""Cut a program at any checkpoint whatsoever: every task is in exactly one place, settled or back in the backend."""

from __future__ import annotations

from itertools import count

import pytest

from tests.promises._knife import DO, Scenario


@pytest.mark.parametrize("over", ["memory", "slow", "pipe"])
@pytest.mark.parametrize("what", DO)
def test_promise_02_cancellation_loses_nothing_wherever_it_is_cut(over: str, what: str) -> None:
    for step in count(1):
        scenario = Scenario(over, what, step)
        scenario.run()
        assert not scenario.books.faults, f"cut before step {step}"
        if not scenario.was_cut:
            assert step > 50, "the scenario has lost its steps"
            return
