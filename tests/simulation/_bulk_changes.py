"""Random changes of many tasks by one call while no worker runs, by filters and by ids, and checks of their effect."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

from trio_tasks import Status, Task

from tests._attempt_checker import ALL
from tests.simulation._claim_checker import ClaimChecker

_FINAL = (Status.Done, Status.Failed, Status.Killed)
Tasks = dict[str, Task[Any]]


class BulkChanges:
    """Changes many tasks at random.

    Args:
      checker: is told which tasks were resumed, and which were forgotten.
    """

    def __init__(self, checker: ClaimChecker) -> None:
        self._checker = checker

    async def act(self, storage: Any, random: Random) -> None:
        """Make a few changes, and compare the tasks before and after each."""
        for _ in range(random.randint(0, 4)):
            change = random.choice((self._cancel, self._retry, self._discard, self._vacuum, self._by_ids, self._by_ids))
            await change(storage, random)

    async def _tasks(self, storage: Any) -> Tasks:
        return {task.parts.id: task for task in await storage.list_tasks(limit=ALL)}

    async def _cancel(self, storage: Any, random: Random) -> None:
        await self._by_filters(storage, random, storage.cancel_all, (Status.Pending,), Status.Killed)

    async def _retry(self, storage: Any, random: Random) -> None:
        statuses = random.choice(((Status.Failed, Status.Killed), (Status.Done,)))
        await self._by_filters(storage, random, storage.retry_all, statuses, Status.Pending)

    async def _discard(self, storage: Any, random: Random) -> None:
        await self._by_filters(storage, random, storage.discard_all, _FINAL, None)

    async def _vacuum(self, storage: Any, random: Random) -> None:
        status = random.choice((None, *_FINAL))
        before = await self._tasks(storage)
        number = await storage.vacuum(status=status, older_than=random.choice((None, 0.0)))
        chosen = {
            each for each, task in before.items() if task.parts.status in (_FINAL if status is None else (status,))
        }
        self._checker.seen["vacuum"] += number
        await self._compare(storage, f"vacuum {status}", before, chosen, None, number)

    async def _by_filters(
        self,
        storage: Any,
        random: Random,
        verb: Callable[..., Awaitable[int]],
        statuses: tuple[Status, ...],
        becomes: Status | None,
    ) -> None:
        before, unique = await self._tasks(storage), random.choice((None, None, "a"))
        status = random.choice(statuses) if random.random() < 0.5 or statuses == (Status.Done,) else None
        number = await verb(status, unique=unique)
        chosen = {
            each
            for each, task in before.items()
            if task.parts.status in (statuses if status is None else (status,))
            and unique in (None, task.parts.terms.unique)
        }
        self._checker.seen[verb.__name__] += number
        await self._compare(storage, f"{verb.__name__} {status} {unique}", before, chosen, becomes, number)

    async def _by_ids(self, storage: Any, random: Random) -> None:
        before = await self._tasks(storage)
        ids = [*random.sample([*before], min(len(before), random.randint(0, 5))), "nobody"]
        verb, becomes = random.choice((("cancel", Status.Killed), ("discard", None), ("resume_by_id", Status.Pending)))
        report = await getattr(storage, verb)(ids + ids[:1])
        if {*report.changed, *report.refused} != {*ids} or report.is_complete:
            self._checker.fault(f"{verb} of {ids} reports {report}")
        self._checker.seen["changed several by ids"] += len(report.changed) > 1
        await self._compare(storage, f"{verb} {ids}", before, {*report.changed}, becomes, len(report.changed))
        waiting = {each for each, task in before.items() if task.parts.status is Status.Pending}
        wrong = {"cancel": waiting, "discard": waiting, "resume_by_id": set[str]()}[verb] & report.refused.keys()
        if wrong:
            self._checker.fault(f"{verb} has refused {wrong}, which wait: {report}")

    async def _compare(
        self, storage: Any, what: str, before: Tasks, chosen: set[str], becomes: Status | None, number: int
    ) -> None:
        """Check that those that were chosen have become this, but for some that were resumed and whose key is taken."""
        checker, after = self._checker, await self._tasks(storage)
        checker.note(f"{what}: {number} of {len(chosen)}")
        changed = {each for each in chosen if (each in after and after[each].parts.status) == (becomes or False)}
        kept = chosen - changed
        if number != len(changed) or any(
            becomes is not Status.Pending or not self._is_taken(before[e], after) for e in kept
        ):
            checker.fault(f"{what} has changed {number} of {sorted(chosen)}, and not {sorted(kept)}")
        for task_id in before.keys() - after.keys() - changed:
            checker.fault(f"{what} has lost {task_id}")
        for task_id in changed:
            if becomes is Status.Pending:
                checker.will_resume(task_id)
                checker.was_resumed(task_id, really=True)
            elif becomes is None:
                checker.was_forgotten(before[task_id])

    def _is_taken(self, task: Task[Any], after: Tasks) -> bool:
        """Return True if another task may hold its key; one that is finished may do so until it is forgotten, or for a
        time.
        """
        unique = task.parts.terms.unique
        others = (each.parts for each in after.values() if unique is not None and each.parts.terms.unique == unique)
        return any(
            not parts.status.is_final or parts.unique_until == "forgotten" or parts.unique_for is not None
            for parts in others
        )
