"""What a user's own writes get to write with, inside a transaction of ours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ._sqlite_driver import Connection, Row


@final
class Writer:
    """A connection that can write; statements about transactions are refused."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """Run one statement; its rows."""
        return self._connection.execute(sql, parameters)

    def executemany(self, sql: str, parameters: Iterable[Sequence[Any]]) -> int:
        """Run one statement for each; how many rows were changed."""
        return self._connection.executemany(sql, parameters)
