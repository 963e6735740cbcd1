"""What programs have found in what stood: the seed that failed, and what was wrong. None of them may fail again."""

from __future__ import annotations

from tests.simulation._stores import Kind

FOUND: list[tuple[Kind, int, str]] = [
    (
        "file",
        7,
        "a lease that was over still counted when the next one began, so who waited for a task span until that ended",
    ),
    (
        "sqlite",
        481,
        "a task that was replaced while it ran had lost its unique key, so it could be resumed beside its successor",
    ),
]
