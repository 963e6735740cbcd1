"""The stores that are open in each run of trio, for those who wait until all of them are closed."""

from __future__ import annotations

import trio

_open: dict[trio.lowlevel.TrioToken, set[object]] = {}
_all_closed: dict[trio.lowlevel.TrioToken, trio.Event] = {}


def note_open(store: object) -> None:
    """Take note that this store is open now."""
    _open.setdefault(trio.lowlevel.current_trio_token(), set()).add(store)


def note_closed(store: object) -> None:
    """Take note that this store is closed, with an error or without."""
    token = trio.lowlevel.current_trio_token()
    stores = _open.get(token, set())
    stores.discard(store)
    if not stores:
        _open.pop(token, None)
        if (event := _all_closed.pop(token, None)) is not None:
            event.set()


def are_some_open() -> bool:
    """Return True if a store is open in this run."""
    return trio.lowlevel.current_trio_token() in _open


async def wait_all_closed() -> None:
    """Return once no store is open in this run."""
    token = trio.lowlevel.current_trio_token()
    if token not in _open:
        await trio.lowlevel.checkpoint()
        return
    event = _all_closed.setdefault(token, trio.Event())
    try:
        await event.wait()
    finally:
        _all_closed.pop(token, None)
