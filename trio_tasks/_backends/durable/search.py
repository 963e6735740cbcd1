"""The filter of a search in the rows of an engine."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Protocol, final

from ..._tasks.errors import BackendError
from .encoding import decode_options

if TYPE_CHECKING:
    from .engine import Query


class SearchedRow(Protocol):
    """The fields of a row by which it is filtered."""

    @property
    def id(self) -> str: ...
    @property
    def name(self) -> str | None: ...
    @property
    def worker(self) -> str | None: ...
    @property
    def pushed(self) -> float | None: ...
    @property
    def finished(self) -> float | None: ...
    @property
    def options(self) -> bytes | None: ...


@final
class RowFilter:
    """A function that returns True if a row passes the filters of a query.

    Unique key and metadata are inside the encoded options. Most rows are left out without decoding these: if the bytes
    of a text are not in them, the text is not either.
    """

    __slots__ = ("_left_out", "_needles", "_only", "_selection")

    def __init__(self, query: Query) -> None:
        selection = self._selection = query.selection
        self._only, self._left_out = query.only, query.left_out
        texts = [*(selection.metadata or ())]
        texts += [each for each in (selection.metadata or {}).values() if isinstance(each, str)]
        if selection.unique is not None:
            texts.append(selection.unique)
        self._needles = [each.encode("utf-8", "surrogatepass") for each in texts]

    @classmethod
    def of(cls, query: Query) -> RowFilter | None:
        """The filter of this query; None if every row passes."""
        is_filtered = query.selection.is_filtered or query.only is not None or query.left_out
        return cls(query) if is_filtered else None

    def __call__(self, row: SearchedRow) -> bool:
        if (self._only is not None and row.id not in self._only) or row.id in self._left_out:
            return False
        if not self._selection.takes(row.name, row.worker, row.pushed, row.finished):
            return False
        return not self._selection.needs_terms or self._takes_terms(row)

    def _takes_terms(self, row: SearchedRow) -> bool:
        options = row.options or b""
        if not all(each in options for each in self._needles):
            return False
        with suppress(BackendError):  # what cannot be read has nothing that could be equal
            terms, metadata = decode_options(row.options)
            return self._selection.takes_terms(terms, metadata)
        return False
