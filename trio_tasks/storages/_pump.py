"""Group commit: one exchange after the other, each with all that has lined up meanwhile."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, final

import trio
from outcome import Error

from .._contained import log, log_and_suppress
from .._errors import BackendError
from ._lane import STALE, abort
from ._port import Exchange
from ._requests import Push, Settle
from ._traffic import again

if TYPE_CHECKING:
    from ._lane import Lane
    from ._port import Claim
    from ._traffic import Traffic

_PATIENCE = 10.0
"""Seconds for which settling is tried again, and receivers wait, while the engine fails."""
_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 1.0
"""Seconds between two tries while the engine fails."""
_LOOKS_APART = 0.02
"""Seconds between two looks for what others want aborted, however much news there is."""


@final
class Pump:
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
        """Make one exchange after the other, until cancelled, or the traffic has ended. Should it fail, which is not
        foreseen, nobody is left to wait for it."""
        try:
            await self._run()
        except Exception as error:
            self._traffic.break_off(_as_ours(error))
            raise

    async def _run(self) -> None:  # noqa: ASYNC910  the same
        traffic = self._traffic
        while not traffic.closed:
            if traffic.pushes or traffic.settles:
                await trio.lowlevel.checkpoint()  # who was told just now, and asks again, is in the next exchange
            else:
                await self._wait_until_needed()
            traffic.needed = trio.Event()
            traffic.give_back(only_stale=True)
            claims, lanes = traffic.claims()
            if traffic.pushes or traffic.settles or claims:
                await self._exchange(claims, lanes)
            traffic.end_lanes()
            if traffic.has_news and trio.current_time() >= self._next_look:
                await self._look_for_aborts()

    async def _wait_until_needed(self) -> None:
        next_time = self._next_time()
        with trio.move_on_at(next_time):  # noqa: ASYNC912  the deadline may have passed
            await self._traffic.needed.wait()
        shortest = min((lane.lease for lane in self._traffic.lanes.values()), default=math.inf)
        if trio.current_time() > next_time + shortest / 3:
            self._stood_still = True
        if trio.current_time() >= self._next_poll:
            self._next_poll = math.inf
            for lane in self._traffic.lanes.values():
                lane.prune(self._engine.now())
            self._traffic.hear()

    def _next_time(self) -> float:
        """When there is something to do, though nobody says so."""
        now, engine_now = trio.current_time(), self._engine.now()
        lanes = self._traffic.lanes.values()
        if any(lane.receivers or lane.awaited or lane.hand for lane in lanes):
            self._next_poll = min(self._next_poll, now + self._poll_interval)
        else:
            self._next_poll = math.inf
        next_time = min(self._next_poll, self._next_look) if self._traffic.has_news else self._next_poll
        for lane in lanes:
            if lane.stock:
                next_time = min(next_time, now + STALE)
            if lane.receivers and lane.next_due is not None:
                next_time = min(next_time, now + max(0.0, lane.next_due - engine_now))
        return next_time

    async def _exchange(self, claims: list[Claim], lanes: list[Lane]) -> None:
        """Make one exchange, and tell everybody what came of it."""
        traffic = self._traffic
        pushes, settles = traffic.pushes, traffic.settles
        traffic.pushes, traffic.settles = [], []
        for push in pushes:
            push.is_under_way = True
        rows = [row for push in pushes for row in push.rows]
        exchange = Exchange([settle.settlement for settle in settles], rows, claims)
        began_at, began = self._engine.now(), trio.current_time()
        late = traffic.late() if claims else ()  # or the claims would take what runs here
        if claims:
            exchange.renewed = [(parts.context.held, lane.lease) for lane, parts in late]
            exchange.as_of = began_at
            exchange.after_standstill, self._stood_still = self._stood_still, False
        stirs = [lane.stirs for lane in lanes]
        try:
            answer = await traffic.in_turn(self._engine.exchange, exchange)
        except Exception as error:
            await self._bear(_as_ours(error), pushes, settles, began)
            return
        self._failing_since, self._pause = None, _FIRST_PAUSE
        traffic.tell(answer, pushes, settles)
        for (lane, parts), is_kept in zip(late, answer.renewed, strict=True):
            if is_kept:
                parts.context.until = began_at + lane.lease
            else:
                lane.lose(parts)
        for number, lane in enumerate(lanes):
            claim, claimed = claims[number], answer.claimed[number]
            if len(claimed) < claim.limit:
                lane.ran_dry(stirs[number], answer.next_due[number], answer.live[number])
            lane.let_in(claimed, began_at + claim.lease, self._engine.now())

    async def _bear(  # noqa: ASYNC910  who pushes again cuts the pause short
        self, error: BackendError, pushes: list[Push], settles: list[Settle], began: float
    ) -> None:
        """The engine has failed: whoever pushed is told; settling is tried again, for a while since the first exchange
        that failed was begun."""
        traffic, now = self._traffic, trio.current_time()
        if self._failing_since is None:
            self._failing_since = began
            log.warning("a storage has failed: %s", error)
        for push in pushes:
            trio.lowlevel.reschedule(push.trio_task, Error(again(error)))
        for settle in settles:
            if now < self._failing_since + _PATIENCE and not error.is_final:
                traffic.settles.append(settle)
            elif settle.trio_task is not None and settle.parts is not None:
                settle.lane.let_go(settle.parts)  # nobody holds it; but it is live, and comes back with its lease
                trio.lowlevel.reschedule(settle.trio_task, Error(again(error)))
        if now >= self._failing_since + _PATIENCE or error.is_final:
            for lane in traffic.lanes.values():
                lane.send_away(again(error))
        with trio.move_on_after(self._pause):  # noqa: ASYNC912  the same
            while not traffic.pushes:  # who comes now may have better luck, or is told at once
                await traffic.needed.wait()
                traffic.needed = trio.Event()
        self._pause = min(self._pause * 2, _LONGEST_PAUSE)
        traffic.needed.set()

    async def _look_for_aborts(self) -> None:  # noqa: ASYNC910  the pump has its checkpoints elsewhere
        """End the attempts that somebody wants aborted."""
        self._traffic.has_news = False
        self._next_look = trio.current_time() + _LOOKS_APART
        hands = {parts.context.held: parts for lane in self._traffic.lanes.values() for parts in lane.hand.values()}
        if not hands:
            return  # noqa: ASYNC910  the same
        with log_and_suppress("a storage could not look for what is to be aborted"):
            renewal = await self._traffic.in_turn(self._engine.renew, (), 0.0)
            for held in renewal.aborted:
                if held in hands:
                    abort(hands[held])


def _as_ours(error: Exception) -> BackendError:
    """What an engine raised; if it ought not to have, the log has all of it."""
    if isinstance(error, BackendError):
        return error
    log.error("an engine failed in an unforeseen way", exc_info=error)
    ours = BackendError(f"the engine failed: {error!r}")
    ours.__cause__ = error
    return ours
