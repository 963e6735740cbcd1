"""The table of what each backend can do, made from the classes themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio
import trio_tasks.abc  # noqa: F401  it says where some of the interfaces are public
from trio_tasks import CustomBackend, FileStorage, MemoryStorage, SqliteStorage
from trio_tasks._backends.channel import as_backend
from trio_tasks._backends.mirroring import CAPABILITIES, verbs_of

if TYPE_CHECKING:
    from collections.abc import Iterator

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
        "Custom, without `settle=`": type(CustomBackend[Any](receive=channel.receive)),
        "Custom": CustomBackend,
    }


def lines() -> Iterator[tuple[str, str, list[bool]]]:
    """Each line: what is asked for, what it means, and which backends can do it."""
    kinds = backends().values()
    for interface in CAPABILITIES:
        verbs = ", ".join(f"`{verb}`" for verb in sorted(verbs_of(interface)))
        sentence = " ".join((interface.__doc__ or "").strip().partition("\n\n")[0].replace("``", "`").split())
        yield f"`{interface.__name__}`", f"{sentence} {verbs}", [issubclass(kind, interface) for kind in kinds]
    for method, sentence in METHODS.items():
        yield f"`{method}`", sentence, [hasattr(kind, method) for kind in kinds]


def table() -> str:
    """The table, in Markdown."""
    head = ["", "", *backends()]
    rows = [[name, what, *("yes" if can else "" for can in cans)] for name, what, cans in lines()]
    return "\n".join(" ".join(f"| {' | '.join(row)} |".split()) for row in [head, ["---"] * len(head), *rows])
