"""Group commit: one exchange after the other, each with all that has lined up meanwhile."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, final

import trio

from ..._logging import log, log_and_suppress, passes_through
from ..._tasks.errors import BackendError
from .batch import Batch, BeforeClaims, Part, UnforeseenError, as_backend_error, exchange_in_parts
from .queue import STALE, abort
from .traffic import copy_error

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .engine import ClaimRequest, ExchangeResult
    from .queue import QueueState
    from .requests import PushRequest, SettleRequest
    from .traffic import Traffic

_PATIENCE = 10.0
"""Seconds for which settling is tried again, and receivers wait, while the engine fails."""
_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 1.0
"""Seconds between two tries while the engine fails."""
_LOOKS_APART = 0.02
"""Seconds between two looks for what others want aborted, however much news there is."""


@final
class ExchangeLoop:
    """The one trio task that makes exchanges with an engine.

    Args:
      traffic: what is asked of it.
      poll_interval: seconds between two looks at the store for those who wait, in case that news of it went astray.
    """

    def __init__(self, traffic: Traffic, poll_interval: float) -> None:
        self._traffic = traffic
        self._engine = traffic.engine
        self._poll_interval = poll_interval
        self._next_poll = math.inf
        self._next_look = -math.inf
        self._failing_since: float | None = None
        self._pause = _FIRST_PAUSE
        self._stood_still = False  # since the last exchange with claims

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:  # noqa: ASYNC910  it ends with the traffic
        """Make one exchange after the other, until cancelled, or the traffic has ended. Whatever ends it, all who wait
        for an exchange are told."""
        with _EndOfLoop(self._traffic):
            await self._run()

    async def _run(self) -> None:  # noqa: ASYNC910  the same
        traffic = self._traffic
        while not traffic.closed:
            if traffic.pushes or traffic.settles:
                await trio.lowlevel.checkpoint()  # who was told just now, and asks again, is in the next exchange
            else:
                await self._wait_until_needed()
            traffic.wake_up = trio.Event()
            traffic.release_prefetched(only_stale=True)
            claims, queues = traffic.claims()
            if traffic.pushes or traffic.settles or claims:
                await self._exchange(claims, queues)
            traffic.end_queues()
            if traffic.may_have_aborts and trio.current_time() >= self._next_look:
                await self._look_for_aborts()

    async def _wait_until_needed(self) -> None:
        next_time = self._next_time()
        with trio.move_on_at(next_time):  # noqa: ASYNC912  the deadline may have passed
            await self._traffic.wake_up.wait()
        shortest = min((queue.lease for queue in self._traffic.queues.values()), default=math.inf)
        if trio.current_time() > next_time + shortest / 3:
            self._stood_still = True
        if trio.current_time() >= self._next_poll:
            self._next_poll = math.inf
            for queue in self._traffic.queues.values():
                queue.prune(self._engine.now())
            self._traffic.on_wakeup()

    def _next_time(self) -> float:
        """When there is something to do, though nobody says so."""
        now, engine_now = trio.current_time(), self._engine.now()
        queues = self._traffic.queues.values()
        if any(queue.receivers or queue.awaited or queue.leased for queue in queues):
            interval = self._poll_interval if self._engine.news_may_be_lost else math.inf
            self._next_poll = min(self._next_poll, now + interval)
        else:
            self._next_poll = math.inf
        next_time = min(self._next_poll, self._next_look) if self._traffic.may_have_aborts else self._next_poll
        for queue in queues:
            if queue.prefetched:
                next_time = min(next_time, now + STALE)
            if not queue.is_waited_for:  # then no claim is made, and what is due changes nothing
                continue
            if queue.next_due is not None:
                next_time = min(next_time, now + max(0.0, queue.next_due - engine_now))
            if queue.refused_since is not None:
                next_time = min(next_time, now + max(0.0, queue.ask_again_at - engine_now))
        return next_time

    async def _exchange(self, claims: list[ClaimRequest], queues: list[QueueState]) -> None:
        """Make one exchange, or several if the engine refuses a part of it, and tell everybody what came of it."""
        traffic = self._traffic
        settles, pushes = traffic.take_requests()
        asked = [(claim, queue, queue.changes) for claim, queue in zip(claims, queues, strict=True)]
        batch, engine, began = Batch(settles, pushes, asked), self._engine, trio.current_time()
        if claims:
            late = traffic.late()  # or the claims would take what runs here
            batch.before_claims = BeforeClaims(late, self._engine.now(), self._stood_still)
            self._stood_still = False
        parts = await traffic.with_engine(exchange_in_parts, engine.exchange, batch, engine.now)
        traffic.took = engine.now() - parts[0].began_at
        for part in parts:
            if not isinstance(part.result, BackendError):
                self._deliver(part, part.result)
            elif part.is_refused:
                self._refuse(part.batch, part.result)
            else:
                await self._handle_failure(part.result, part.batch.pushes, part.batch.settles, began)

    def _deliver(self, part: Part, answer: ExchangeResult) -> None:
        """Tell everybody what came of an exchange, and hand out what it has claimed."""
        batch = part.batch
        self._failing_since, self._pause = None, _FIRST_PAUSE
        self._traffic.answer(answer, batch.pushes, batch.settles)
        for (queue, parts), is_kept in zip(batch.renewals, answer.renewed, strict=True):
            if is_kept:
                parts.context.until = part.began_at + queue.lease
            else:
                queue.lose_lease(parts)
        for number, (claim, queue, stirs) in enumerate(batch.claims):
            claimed = answer.claimed[number]
            queue.refused_since = None
            if len(claimed) < claim.limit:
                queue.mark_drained(stirs, answer.next_due[number], answer.live[number])
            queue.deliver(claimed, claim, part.began_at + claim.lease, self._engine.now())

    def _refuse(self, batch: Batch, error: BackendError) -> None:
        """The store is well, and does not do this one thing. A queue whose claim is refused is asked again for a while;
        the others go on."""
        _log_if_unforeseen(error)
        self._traffic.refuse(error, batch.pushes, batch.settles)
        now = trio.current_time()
        for claim, queue, _ in batch.claims:
            if queue.refused_since is None:
                queue.refused_since = now
                log.warning("a storage cannot claim from queue %r: %s", claim.queue, error)
            if error.is_final or now >= queue.refused_since + _PATIENCE:
                queue.refused_since = None
                queue.fail_receivers(copy_error(error))
            else:
                queue.ask_again_at = self._engine.now() + _LONGEST_PAUSE

    async def _handle_failure(  # noqa: ASYNC910  who pushes again cuts the pause short
        self, error: BackendError, pushes: Sequence[PushRequest], settles: Sequence[SettleRequest], began: float
    ) -> None:
        """The engine has failed: whoever pushed is told; settling is tried again, for a while since the first exchange
        that failed was begun."""
        traffic, now = self._traffic, trio.current_time()
        _log_if_unforeseen(error)
        if self._failing_since is None:
            self._failing_since = began
            log.warning("a storage has failed: %s", error)
        is_over = error.is_final or now >= self._failing_since + _PATIENCE
        traffic.fail(error, pushes, settles if is_over else ())
        if is_over:
            for queue in traffic.queues.values():
                queue.fail_receivers(copy_error(error))
        else:
            traffic.settles += settles
        with trio.move_on_after(self._pause):  # noqa: ASYNC912  the same
            while not traffic.pushes:  # who comes now may have better luck, or is told at once
                await traffic.wake_up.wait()
                traffic.wake_up = trio.Event()
        self._pause = min(self._pause * 2, _LONGEST_PAUSE)
        traffic.wake_up.set()

    async def _look_for_aborts(self) -> None:  # noqa: ASYNC910  the exchange_loop has its checkpoints elsewhere
        """End the attempts that somebody wants aborted."""
        self._traffic.may_have_aborts = False
        self._next_look = trio.current_time() + _LOOKS_APART
        hands = {
            parts.context.claim_key: parts for queue in self._traffic.queues.values() for parts in queue.leased.values()
        }
        if not hands:
            return  # noqa: ASYNC910  the same
        with log_and_suppress("a storage could not look for what is to be aborted"):
            renewal = await self._traffic.with_engine(self._engine.renew, (), 0.0)
            for held in renewal.aborted:
                if held in hands:
                    abort(hands[held])


def _log_if_unforeseen(error: BackendError) -> None:
    """An engine ought to raise a BackendError and nothing else; if it has not, the log has all of it."""
    if isinstance(error, UnforeseenError):
        log.error("an engine failed in an unforeseen way", exc_info=error.__cause__)


@final
class _EndOfLoop:
    """Fails all who wait for an exchange when the block ends, in whatever way."""

    __slots__ = ("_traffic",)

    def __init__(self, traffic: Traffic) -> None:
        self._traffic = traffic

    def __enter__(self) -> None:
        """Nothing happens yet."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if self._traffic.closed:
            return  # who closes it does that
        if error is None or passes_through(error):
            ours = BackendError("the storage has ended: no exchange is made any more")
            ours.is_final = True
        else:
            ours = as_backend_error(error)
            _log_if_unforeseen(ours)
        self._traffic.fail_all(ours)
