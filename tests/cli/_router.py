"""A router for the tests of the command line."""

from __future__ import annotations

from datetime import date
from pathlib import Path

from trio_tasks import Attempt, Injected, Router

tasks = Router()


@tasks.task(queue="numbers")
async def double(n: int, *, attempt: Attempt = Injected) -> int:
    """Double a number, which must not be 13."""
    if n == 13:
        raise ValueError(f"unlucky in attempt {attempt}")
    return 2 * n


@tasks.task(queue="files", attempts=2)
def describe(path: Path, day: date, title: str = "", sizes: list[int] | None = None) -> str:
    """Return all arguments as a text."""
    return f"{path!s} {day.year} {title} {sizes}"
