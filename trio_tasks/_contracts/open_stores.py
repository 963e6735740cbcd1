"""A registry of the stores that are open in each trio run, to wait until all of them are closed."""

from __future__ import annotations

import trio

_open: dict[trio.lowlevel.TrioToken, set[object]] = {}
_all_closed: dict[trio.lowlevel.TrioToken, trio.Event] = {}


def note_open(store: object) -> None:
    """Note that this store is open."""
    _open.setdefault(trio.lowlevel.current_trio_token(), set()).add(store)


def note_closed(store: object) -> None:
    """Note that this store is closed, with or without an error."""
    token = trio.lowlevel.current_trio_token()
    stores = _open.get(token, set())
    stores.discard(store)
    if not stores:
        _open.pop(token, None)
        if (event := _all_closed.pop(token, None)) is not None:
            event.set()


def are_some_open() -> bool:
    """Return True if any store is open in this trio run."""
    return trio.lowlevel.current_trio_token() in _open


async def wait_all_closed() -> None:
    """Wait until no store is open in this trio run."""
    token = trio.lowlevel.current_trio_token()
    if token not in _open:
        await trio.lowlevel.checkpoint()
        return
    event = _all_closed.setdefault(token, trio.Event())
    try:
        await event.wait()
    finally:
        _all_closed.pop(token, None)
