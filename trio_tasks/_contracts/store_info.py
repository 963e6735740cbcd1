"""The state of a store beside its tasks: its place, its format, its size, and the damage found in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final


@final
@dataclass(frozen=True, slots=True)
class StoreInfo:
    """The state of the store of a storage, beside its tasks: what ``inspect()`` returns. It is true if nothing is
    damaged.

    >>> async with SqliteStorage("tasks.db", read_only=True) as storage:
    ...     info = await storage.inspect()
    ...     assert info, info.damage

    Args:
      place: the path of the file.
      kind: what the store is, and by which program it is kept: ``"SQLite 3.51.3, by sqlite3"``.
      version: the version of the format in which it is stored.
      size: bytes of the file.
      log_size: bytes of the write-ahead log beside it; 0 if there is none.
      damage: what is damaged, as texts for people; empty if nothing is.
      warnings: what may do damage, likewise.
    """

    place: str
    kind: str
    version: int
    size: int
    log_size: int = 0
    damage: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return not self.damage
