"""The clock of an SQLite file: one for all processes that share it, which never goes back.

It is set by the wall clock when the first process since the machine was started opens the file, and runs by the
machine's monotonic clock from then on. So setting the wall clock, in either direction, changes nothing for a file in
use; and after a restart it goes on from the latest time that the file knows of, at the earliest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from .._clock import machine_now, wall_now
from ._port import LATEST
from ._sqlite_driver import DamagedError

if TYPE_CHECKING:
    from ._sqlite_driver import Connection

_OFFSETS: trio.lowlevel.RunVar[dict[str, float]] = trio.lowlevel.RunVar("trio_tasks clocks of files")
"""By the path of the file: what to add to trio's clock, so that two storages of a run agree under a virtual clock."""


def anchored(connection: Connection, path: str) -> float:
    """The present by the file's clock; inside a transaction. If it has no anchor since the machine was started, it gets
    one.

    Raises:
      BackendError: it has no clock that could be read.
    """
    boot, monotonic = machine_now()
    meta = _read(connection, path)
    if boot and meta["boot"] == boot:
        return max(float(meta["anchor"]) + monotonic, float(meta["latest"]))
    now = max(wall_now().timestamp(), float(meta["latest"]))
    keep(connection, boot=boot, anchor=now - monotonic, latest=now)
    return now


def present(connection: Connection, path: str) -> float:
    """The present by the file's clock, which is left as it is; raises as :func:`anchored`."""
    boot, monotonic = machine_now()
    meta = _read(connection, path)
    is_running = boot and meta["boot"] == boot
    return max(float(meta["anchor"]) + monotonic if is_running else wall_now().timestamp(), float(meta["latest"]))


def _read(connection: Connection, path: str) -> dict[str, Any]:
    meta: dict[str, Any] = dict(connection.execute("SELECT name, value FROM trio_tasks_meta"))
    for name in ("latest", "anchor"):
        value = meta.get(name)
        if not isinstance(value, (int, float)) or not -LATEST <= value <= LATEST:
            raise DamagedError(f"the SQLite file {path!r} is damaged: {name!r} of its clock is {value!r}")
    if "boot" not in meta:
        raise DamagedError(f"the SQLite file {path!r} is damaged: its clock does not say since when it runs")
    return meta


def keep(connection: Connection, **values: str | float) -> None:
    """Store values of the clock."""
    for name, value in values.items():
        connection.execute("UPDATE trio_tasks_meta SET value = ? WHERE name = ?", (value, name))


def offset_of(path: str, now: float) -> float:
    """What to add to trio's clock to have the file's, which shows ``now``."""
    try:
        offsets = _OFFSETS.get()
    except LookupError:
        offsets = dict[str, float]()
        _OFFSETS.set(offsets)
    offsets[path] = max(now - trio.current_time(), offsets.get(path, -float("inf")))
    return offsets[path]
