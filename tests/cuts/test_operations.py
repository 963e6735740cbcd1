"""Every public async operation of every backend, cut at every moment: all or nothing, and nothing is lost.

What is to be tried is found by looking at the classes; so a new operation without a scenario fails here.
"""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio_tasks.testing import Cut, explore_cancellations

from tests.cuts._operations import Operation, Seen, operations_of
from tests.cuts._places import MOMENT, PLACES
from tests.cuts._public import ELSEWHERE, kinds_of_backends, verbs_of

pytestmark = pytest.mark.searching

CASES = [
    (kind, verb, number)
    for kind, cls in kinds_of_backends().items()
    for verb in verbs_of(cls)
    if verb not in ELSEWHERE
    for number in range(len(operations_of(kind, verb)))
]


async def play(kind: str, operation: Operation, uncut: list[dict[str, Any]], cut: Cut) -> None:
    async with PLACES[kind]() as place:
        await place.arrange()
        before = await place.snapshot()
        returned = await operation.act(place, cut)
        await trio.sleep(MOMENT)
        after = await place.snapshot()
        if not cut.has_come:
            uncut[:] = [after]
        operation.check(Seen(before, after, uncut[0], returned))
        await place.audit(before, after)


@pytest.mark.parametrize(("kind", "verb", "number"), CASES)
def test_an_operation_is_cut_at_every_moment(kind: str, verb: str, number: int) -> None:
    uncut: list[dict[str, Any]] = []

    async def scenario(cut: Cut) -> None:
        await play(kind, operations_of(kind, verb)[number], uncut, cut)

    found = explore_cancellations(scenario)
    assert found.cuts >= 2, "it has no checkpoint"
