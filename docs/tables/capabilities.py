"""The table of what each backend can do, made from the classes themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio
import trio_tasks.abc  # noqa: F401  it says where some of the interfaces are public
from trio_tasks import CustomBackend, FileStorage, MemoryStorage, SqliteStorage
from trio_tasks._channel import as_backend
from trio_tasks._mirroring import CAPABILITIES, verbs_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

METHODS = {
    "share": "Has several queues.",
    "push_in": "Can push inside a transaction of yours.",
    "statistics": "Shows how it stands, at once.",
}
"""What belongs to no interface, and is worth a line."""


def backends() -> dict[str, type[Any]]:
    """The class of each backend, by what it is called in the head of the table."""
    _, channel = trio.open_memory_channel[Any](0)
    return {
        "Memory": MemoryStorage,
        "SQLite": SqliteStorage,
        "File": FileStorage,
        "Channel": type(as_backend(channel)),
        "Custom, without ``settle=``": type(CustomBackend[Any](receive=channel.receive)),
        "Custom": CustomBackend,
    }


def lines() -> Iterator[tuple[str, str, list[bool]]]:
    """Each line: what is asked for, what it means, and which backends can do it."""
    kinds = backends().values()
    for interface in CAPABILITIES:
        verbs = ", ".join(f"``{verb}``" for verb in sorted(verbs_of(interface)))
        sentence = (interface.__doc__ or "").strip().partition("\n\n")[0].replace("\n", " ")
        name = f":class:`{interface.__name__} <{interface.__module__}.{interface.__name__}>`"
        yield name, f"{sentence} {verbs}", [issubclass(kind, interface) for kind in kinds]
    for method, sentence in METHODS.items():
        yield f"``{method}``", sentence, [hasattr(kind, method) for kind in kinds]


def table() -> str:
    """The table, as reStructuredText."""
    head = ["", "", *backends()]
    rows = [head, *([name, what, *("yes" if can else "" for can in cans)] for name, what, cans in lines())]
    widths = " ".join(map(str, [16, 36, *[8] * len(backends())]))
    return "\n".join([".. list-table::", "   :header-rows: 1", f"   :widths: {widths}", "", *_cells(rows), ""])


def _cells(rows: Iterable[list[str]]) -> Iterator[str]:
    for row in rows:
        for column, cell in enumerate(row):
            yield f"   {'  ' if column else '* '}-{' ' if cell else ''}{' '.join(cell.split())}"
