"""The workers of a queue: those that run here, as they are told of, and those of other processes, as they have told."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any, final

from ..._concurrency.virtual_time import Rounds
from ..._contracts.context import WorkerContext
from ..._contracts.worker_info import worker_info
from ..._logging import log
from .encoding import decode_worker, encode_worker
from .engine import WorkerRow

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence

    from ..._contracts.worker_info import WorkerInfo
    from .engine import Engine, StoredWorker

_ANSWER_TIME = 1.0
"""Seconds for which workers of other processes are waited for, when they are asked for their state,"""
_LOOKS = 100
"""and looks for their answers in that time."""
_MOST_UNREADABLE = 10_000
"""Workers of other processes of which it is remembered that a record was logged."""


async def find_workers(
    engine: Engine, ask: Callable[..., Awaitable[Any]], queue: str, *, fresh: bool
) -> Sequence[StoredWorker]:
    """Return the workers on a queue as they are stored.

    Args:
      engine: of the storage.
      ask: calls a method of it, while nothing else does.
      queue: its name.
      fresh: True to ask those of other processes for their present state, and wait until all that are alive have told
          it, for a second at most.
    """
    found: Sequence[StoredWorker] = await ask(engine.workers, queue)
    told_at = {(each.engine, each.number): each.told_at for each in found if each.is_alive and not each.is_own}
    if not fresh or not told_at:
        return found
    await ask(engine.ask_workers, queue)
    rounds = Rounds(_ANSWER_TIME, _LOOKS)
    while any(told_at.get((each.engine, each.number)) == each.told_at for each in found if each.is_alive):
        if not await rounds.another():
            break
        found = await ask(engine.workers, queue)
    return found


@final
class WorkerRuns:
    """The workers that run on a queue in this process, as they are told of.

    Args:
      queue: the name.
    """

    def __init__(self, queue: str) -> None:
        self._queue = queue
        self._runs: dict[WorkerContext, tuple[int, float]] = {}  # a number of each, and since when it runs here
        self._numbers = count(1)
        self._told: dict[int, bytes] = {}  # by their numbers
        self._unreadable = set[tuple[int, int]]()  # workers of other processes about which a record was logged

    def keep_only(self, workers: Collection[object]) -> None:
        """Forget the workers that are not among these."""
        self._runs = {context: run for context, run in self._runs.items() if context in workers}
        numbers = {number for number, _ in self._runs.values()}
        self._told = {number: state for number, state in self._told.items() if number in numbers}

    def infos(self, workers: Iterable[object], now: float) -> list[WorkerInfo]:
        """Return what is told of these workers at this time."""
        return [self._info(context, now) for context in workers if isinstance(context, WorkerContext)]

    def rows(self, workers: Iterable[object], now: float) -> list[WorkerRow]:
        """Return what is told of these workers at this time, as it is stored."""
        return [self.row(context, now) for context in workers if isinstance(context, WorkerContext)]

    def row(self, context: WorkerContext, now: float) -> WorkerRow:
        """Return what is told of one worker at this time, as it is stored."""
        info = self._info(context, now)
        return WorkerRow(self._queue, self._runs[context][0], info.name, encode_worker(info))

    def decoded(self, stored: StoredWorker) -> WorkerInfo:
        """Return a worker of another process; log what cannot be read of it, once."""
        info, wrong = decode_worker(stored, self._queue)
        key = stored.engine, stored.number
        if wrong and key not in self._unreadable:
            if len(self._unreadable) < _MOST_UNREADABLE:
                self._unreadable.add(key)
            log.warning("the state of worker %r on queue %r cannot be read: %s", stored.name, self._queue, wrong)
        return info

    def is_news(self, row: WorkerRow) -> bool:
        """Return True if the store was told something else of this worker last."""
        return self._told.get(row.number) != row.state

    def note_told(self, rows: Iterable[WorkerRow]) -> None:
        """Note that the store has been told this."""
        self._told.update((row.number, row.state) for row in rows)

    def _info(self, context: WorkerContext, now: float) -> WorkerInfo:
        if context not in self._runs:
            self._runs[context] = next(self._numbers), now
        return worker_info(context, self._queue, since=self._runs[context][1], now=now)
