"""Tests that cancel every public async operation of every backend at every moment: it takes effect wholly or not at
all.

What is to be tried is found by looking at the classes; so a new operation without a scenario fails here.
"""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio_tasks.testing import Cut, explore_cancellations

from tests.cuts._backends import BACKENDS, GIVE_BACK_SECONDS
from tests.cuts._operations import Operation, Seen, operations_of
from tests.cuts._public_methods import ELSEWHERE, kinds_of_backends, verbs_of

pytestmark = pytest.mark.searching

CASES = [
    (kind, verb, number)
    for kind, cls in kinds_of_backends().items()
    for verb in verbs_of(cls)
    if verb not in ELSEWHERE
    for number in range(len(operations_of(kind, verb)))
]


async def explored(kind: str, operation: Operation, uncut: list[dict[str, Any]], cut: Cut) -> None:
    async with BACKENDS[kind]() as tested:
        await tested.arrange()
        before = await tested.snapshot()
        returned = await operation.act(tested, cut)
        await trio.sleep(GIVE_BACK_SECONDS)
        after = await tested.snapshot()
        if not cut.has_come:
            uncut[:] = [after]
        operation.check(Seen(before, after, uncut[0], returned))
        await tested.audit(before, after)


@pytest.mark.parametrize(("kind", "verb", "number"), CASES)
def test_an_operation_is_cut_at_every_moment(kind: str, verb: str, number: int) -> None:
    uncut: list[dict[str, Any]] = []

    async def scenario(cut: Cut) -> None:
        await explored(kind, operations_of(kind, verb)[number], uncut, cut)

    found = explore_cancellations(scenario)
    assert found.cuts >= 2, "it has no checkpoint"
