"""The runner of rules: it checks each rule on a newly opened handle, within a time limit."""

from __future__ import annotations

import os
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import trio

from ..._contracts.backend import FetchById
from ..._tasks.outcome import Succeeded
from ..._tasks.task_info import StoredTaskInfo
from .harness import Harness
from .rule import Rule, RuleBroken, as_rule_broken

if TYPE_CHECKING:
    from .opening import BackendOpener

_TRIO = str(Path(trio.__file__).parent) + os.sep
_HERE = str(Path(__file__).parent) + os.sep


@final
class RuleRunner:
    """Checks rules on one backend.

    Args:
      opener: opens the backend.
      time_limit: seconds that each rule may take.
    """

    def __init__(self, opener: BackendOpener, time_limit: float) -> None:
        self._opener = opener
        self._time_limit = time_limit

    async def probe(self) -> str:
        """Find out whether a second handle finds the same store, and whether both may be open at once; return the
        backend's name.

        Raises:
          RuleBroken: not even that can be done.
        """
        rule = Rule(
            "the_backend_can_be_opened",
            2,
            "A backend can be opened twice by open_backend, and pushed into.",
            (),
            _nothing,
        )
        name = ""
        opener = self._opener

        async def check(harness: Harness) -> None:
            nonlocal name
            name = type(harness.backend).__name__
            task_id = await harness.push(0)
            opener.shows_info = await _shows_info(harness.backend, task_id)
            async with AsyncExitStack() as stack:
                try:
                    other = await stack.enter_async_context(opener.handle())
                except Exception:
                    other = None  # the store may allow only one handle: close the first one before
                else:
                    opener.is_lasting = opener.is_shared = await _has(harness, other, task_id)
            if other is None:
                await harness.restart()
                opener.is_lasting = await _has(harness, harness.backend, task_id)

        await self._run_limited(rule, check)
        return name

    async def run(self, rule: Rule) -> str | None:  # noqa: ASYNC910  opening is a checkpoint
        """Check a rule; return the reason why it was skipped, or None if it holds.

        Raises:
          RuleBroken: it does not.
        """
        reason: str | None = None

        async def check(harness: Harness) -> None:  # noqa: ASYNC910  what it is called in has some
            nonlocal reason
            reason = next(filter(None, map(harness.missing, rule.needs)), None)
            if reason is None:
                await rule.check(harness)

        await self._run_limited(rule, check)
        return reason

    async def _run_limited(self, rule: Rule, check: Any) -> None:  # noqa: ASYNC910  so is leaving the nursery
        places: list[str] = []
        broken: RuleBroken | None = None
        trio_task = trio.lowlevel.current_task()
        scope = trio.CancelScope()
        try:
            async with trio.open_nursery() as nursery:
                harness = Harness(self._opener, nursery)
                with harness.limit(self._time_limit, lambda: places.append(_where(trio_task))) as scope:
                    async with harness.opened():
                        await check(harness)
                nursery.cancel_scope.cancel()
        except Exception as error:
            broken = as_rule_broken(error, rule)
        if places and (broken is None or scope.cancelled_caught):
            broken = RuleBroken(
                "the check of the rule", f"no end after {self._time_limit:g} s, stuck {places[0]}", "an end"
            )
            broken.rule = rule
        if broken is not None:
            raise broken


async def _nothing(harness: Harness) -> None:
    await trio.lowlevel.checkpoint()


async def _has(harness: Harness, backend: Any, task_id: str) -> bool:
    """Return True if the task is found through this handle."""
    if isinstance(backend, FetchById):
        return await backend.fetch_by_id(task_id) is not None
    with harness.limit(0.5):
        task = await backend.receive()
        await backend.settle(task, Succeeded(None))
        return bool(task.parts.id == task_id)
    return False


async def _shows_info(backend: Any, task_id: str) -> bool:
    """Return True if a task that is looked up has a StoredTaskInfo as its context."""
    if not isinstance(backend, FetchById):
        await trio.lowlevel.checkpoint()
        return False
    task = await backend.fetch_by_id(task_id)
    return task is not None and isinstance(task.parts.context, StoredTaskInfo)


def _where(trio_task: trio.lowlevel.Task) -> str:
    """Describe where a check hangs: the line of the rule, and the innermost line that is not of trio."""
    lines: list[str] = []
    tasks = [trio_task]
    while tasks:
        frames = [each for each in tasks.pop(0).iter_await_frames() if not each[0].f_code.co_filename.startswith(_TRIO)]
        for nursery in trio_task.child_nurseries if not lines else ():
            tasks += [each for each in nursery.child_tasks if not each.name.endswith("watch")]
        ours = [each for each in frames if each[0].f_code.co_filename.startswith(_HERE + "rules")]
        for frame, line in dict.fromkeys([*ours[-1:], *frames[-1:]]):
            code = frame.f_code
            lines.append(f"at {code.co_filename}:{line} in {code.co_name}")
    return ", ".join(dict.fromkeys(lines[-3:])) or "at an unknown place"
