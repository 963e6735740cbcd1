"""Helpers for tests of engines: rows to push, settlements, and the content of an engine."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from trio_tasks._backends.durable.engine import (
    ClaimedRow,
    ClaimRequest,
    Engine,
    Exchange,
    ExchangeResult,
    NewRow,
    Query,
    Settlement,
    SettlementKind,
    State,
    StoredRow,
)

QUEUE = "q"


async def listed(engine: Engine, queue: str, states: Sequence[State]) -> list[StoredRow]:
    """Return all rows in these states, as they are listed."""
    return (await engine.search(queue, Query(states, limit=10_000))).rows


def new(id: str, payload: bytes = b"args", **fields: Any) -> NewRow:
    """A row to be pushed; what is not given is usual."""
    usual = NewRow(QUEUE, id, payload, None, 0, 0.0, None, "skip", None)
    return usual._replace(**fields)


def settled(row: ClaimedRow, verdict: SettlementKind = SettlementKind.SUCCEEDED, **fields: Any) -> Settlement:
    """How the attempt at a row ended; what is not given is usual."""
    usual = Settlement(QUEUE, row.key, row.token, verdict, 0.0, None, None, math.inf)
    return usual._replace(**fields)


async def push(engine: Engine, *rows: NewRow) -> list[Any]:
    """Push, and nothing else."""
    return (await engine.exchange(Exchange(pushed=rows))).pushed


async def settle(engine: Engine, *settlements: Settlement) -> list[bool | BaseException]:
    """Settle, and nothing else."""
    return (await engine.exchange(Exchange(settled=settlements))).settled


async def claim(engine: Engine, limit: int = 1, lease: float = 30.0, queue: str = QUEUE) -> list[ClaimedRow]:
    """Claim, and nothing else."""
    return (await claim_all(engine, limit, lease, queue)).claimed[0]


async def claim_all(engine: Engine, limit: int = 1000, lease: float = 30.0, queue: str = QUEUE) -> ExchangeResult:
    """Claim, with the whole answer."""
    return await engine.exchange(Exchange(claims=[ClaimRequest(queue, limit, lease, "w")]))


def ids(rows: Iterable[Any]) -> list[str]:
    """Their ids."""
    return [row.id for row in rows]


async def stored_counts(engine: Engine, queue: str) -> dict[str, object]:
    """All counters but the age, which changes with time alone."""
    return {name: number for name, number in (await engine.metrics(queue)).items() if name != "oldest_waiting"}


async def contents(engine: Engine, *queues: str) -> dict[str, Any]:
    """Everything that can be seen of these queues."""
    seen: dict[str, Any] = {"queues": sorted(await engine.queues())}
    for queue in queues or (QUEUE,):
        seen[queue] = (
            await stored_counts(engine, queue),
            [list(await listed(engine, queue, [state])) for state in State],
        )
    return seen
