"""A router for the tests of the command line."""

from __future__ import annotations

from datetime import date
from pathlib import Path

from trio_tasks import Attempt, Data, Injected, Router, SuspendError

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


class Settings:
    """What a worker gives to a function."""


settings = Settings()
others = Router()


@others.task
def ping() -> None:
    """Do nothing."""


@others.task(queue="numbers", aliases=["halve"])
async def half(n: int, *, settings: Data[Settings] = Injected) -> str:
    """Halve a number, if it is even."""
    if n % 2:
        raise SuspendError(5, "odd")
    return f"{n // 2} by {type(settings).__name__}"
