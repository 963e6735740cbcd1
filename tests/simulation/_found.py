"""Seeds with which random programs have found faults, each with the fault. None of them may fail again.

When programs are drawn in another way a seed is another program. Then the mends are undone, one at a time, and a seed
is put here that fails without its mend.
"""

from __future__ import annotations

from tests.simulation._stores import Kind

FOUND: list[tuple[Kind, int, str]] = [
    (
        "file",
        21,
        "a lease that was over still counted when the next one began, so who waited for a task span until that ended",
    ),
    (
        "memory",
        1118,
        "explain killed a task that was late, and nobody was told that there was room for another one",
    ),
    (
        "sqlite",
        481,
        "a task that was replaced while it ran had lost its unique key, so it could be resumed beside its successor",
    ),
]
