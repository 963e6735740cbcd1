"""Requests to an engine, and the batches that are one exchange each, or several where the engine refuses a part.

An exchange happens whole or not at all. So one value that the store cannot take would fail all others in its batch.
Where the error is not the store's, the exchange is made again in halves, until the refused request is alone in one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, final

import trio

from ..._concurrency.exception_groups import is_a
from ..._logging import catch_errors
from ..._tasks.errors import BackendError
from .engine import Exchange

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from ..._tasks.task import Parts
    from .engine import ClaimRequest, ExchangeResult, NewRow, Settlement
    from .queue import QueueState


@final
class PushRequest:
    """Rows to be inserted, and the trio task that waits for that: the one which makes this object."""

    __slots__ = ("is_under_way", "queue", "rows", "trio_task")

    def __init__(self, queue: QueueState, rows: list[NewRow]) -> None:
        self.queue = queue
        self.rows = rows
        self.trio_task = trio.lowlevel.current_task()
        self.is_under_way = False


class SettleRequest(NamedTuple):
    """A settlement, and the trio task that waits for it; none does for the release of a prefetched row.

    ``holder`` is the slot that waits, if it is one. It is asked whether it will take another task only when the claims
    of the exchange are made: by then it may have been cancelled, or its worker stopped.
    """

    queue: QueueState
    settlement: Settlement
    holder: Any = None
    parts: Parts | None = None
    trio_task: trio.lowlevel.Task | None = None


class Refused(NamedTuple):
    """The answer to a settlement that the store does not take."""

    error: BackendError


class BeforeClaims(NamedTuple):
    """The steps of an exchange that come before its claims, if it has any."""

    late: Sequence[tuple[QueueState, Parts]]
    """Running attempts whose leases are to be renewed,"""
    as_of: float
    """as was found out at this time, by the engine's clock."""
    after_standstill: bool
    """True if this process stood still."""


@final
@dataclass(slots=True)
class Batch:
    """Requests, in the order in which they are done.

    Args:
      settles: settlements.
      pushes: rows to be inserted.
      claims: claims, each with its queue, and with the queue's count of changes when the claim was made.
      before_claims: steps before the claims.
    """

    settles: Sequence[SettleRequest] = ()
    pushes: Sequence[PushRequest] = ()
    claims: Sequence[tuple[ClaimRequest, QueueState, int]] = ()
    before_claims: BeforeClaims | None = None

    @property
    def size(self) -> int:
        """The number of requests."""
        return len(self.settles) + len(self.pushes) + len(self.claims)

    def exchange(self) -> Exchange:
        """The exchange that does them all."""
        rows = [row for push in self.pushes for row in push.rows]
        exchange = Exchange([each.settlement for each in self.settles], rows, [claim for claim, _, _ in self.claims])
        if self.before_claims is not None and self.claims:
            exchange.renewed = [(parts.context.claim_key, queue.lease) for queue, parts in self.renewals]
            exchange.as_of = self.before_claims.as_of
            exchange.after_standstill = self.before_claims.after_standstill
        return exchange

    @property
    def renewals(self) -> Sequence[tuple[QueueState, Parts]]:
        """The attempts whose leases its exchange renews, each with its queue."""
        return self.before_claims.late if self.before_claims is not None and self.claims else ()

    def halves(self) -> tuple[Batch, Batch]:
        """The first half of the requests, and the second."""
        in_settles = self.size // 2
        in_pushes = max(0, in_settles - len(self.settles))
        in_claims = max(0, in_pushes - len(self.pushes))
        before = self.before_claims
        return (
            Batch(self.settles[:in_settles], self.pushes[:in_pushes], self.claims[:in_claims], before),
            Batch(self.settles[in_settles:], self.pushes[in_pushes:], self.claims[in_claims:], before),
        )

    def __add__(self, other: Batch) -> Batch:
        return Batch(
            [*self.settles, *other.settles],
            [*self.pushes, *other.pushes],
            [*self.claims, *other.claims],
            self.before_claims,
        )


class BatchResult(NamedTuple):
    """A batch for which one exchange was tried."""

    batch: Batch
    """The requests."""
    began_at: float
    """On the engine's clock."""
    result: ExchangeResult | BackendError
    """The result of the exchange, or the error of the engine."""
    is_refused: bool = False
    """True if the store is well, and the error concerns the one request in the batch."""


class UnforeseenError(BackendError):
    """An engine raised something else than a :class:`BackendError`, which is its cause."""

    is_refusal = True  # as far as one knows


async def exchange_in_parts(
    exchange: Callable[[Exchange], Awaitable[ExchangeResult]], batch: Batch, now: Callable[[], float]
) -> list[BatchResult]:
    """Make these requests of the engine: in one exchange, or in several where it refuses one.

    Args:
      exchange: makes one exchange with the engine.
      batch: the requests.
      now: the engine's clock.

    Returns:
      all of the requests, in parts. Of those without a result at most one is not refused: there the store failed.
    """
    began_at = now()
    with catch_errors() as caught:  # as a rule, nothing is refused
        return [BatchResult(batch, began_at, await exchange(batch.exchange()))]
    assert caught.error is not None
    error = as_backend_error(caught.error)
    if error.is_refusal and batch.size > 1:
        return await _exchange_by_halves(exchange, batch, now)
    is_refused = error.is_refusal and not isinstance(error, UnforeseenError)
    return [BatchResult(batch, began_at, error, is_refused)]  # noqa: ASYNC910  an engine is one


async def _exchange_by_halves(
    exchange: Callable[[Exchange], Awaitable[ExchangeResult]], batch: Batch, now: Callable[[], float]
) -> list[BatchResult]:
    """Make requests of which the engine refuses at least one; as :func:`exchange_in_parts`."""
    unasked, answered, refused = [*reversed(batch.halves())], list[BatchResult](), list[BatchResult]()
    failed: BatchResult | None = None
    while unasked and failed is None:
        current, began_at = unasked.pop(), now()
        with catch_errors() as caught:
            answered.append(BatchResult(current, began_at, await exchange(current.exchange())))
        if caught.error is None:
            continue
        error = as_backend_error(caught.error)
        if not error.is_refusal:
            failed = BatchResult(sum(reversed(unasked), current), began_at, error)
        elif current.size > 1:
            unasked += reversed(current.halves())
        else:
            refused.append(BatchResult(current, began_at, error, is_refused=True))
    if not answered and refused and all(isinstance(each.result, UnforeseenError) for each in refused):
        # The engine may be out of order, rather than a request: no other one succeeded.
        last = refused.pop()
        rest = sum([each.batch for each in refused], last.batch)
        failed = BatchResult(rest if failed is None else rest + failed.batch, last.began_at, last.result)
        refused = []
    return [*answered, *refused, *([failed] if failed is not None else ())]  # noqa: ASYNC910  an engine is one


def as_backend_error(error: BaseException) -> BackendError:
    """The error that an engine raised, or an :class:`UnforeseenError` because of it."""
    if is_a(error, BackendError):
        return error
    ours = UnforeseenError(f"the engine failed: {_describe(error)}")
    ours.__cause__ = error
    return ours


def _describe(error: BaseException) -> str:
    """The repr of an error, or at least its class."""
    with catch_errors():
        return repr(error)
    return type(error).__name__
