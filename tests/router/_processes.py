"""Functions that run in processes: a process imports this module, and nothing else of the tests."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from trio_tasks import (
    AbortError,
    Attempt,
    DeferredError,
    Firing,
    Injected,
    Metadata,
    RetryAfterError,
    Router,
    SuspendError,
    TaskId,
)

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

tasks = Router()


class Needs(Exception):
    """An error whose class takes other arguments than its args."""

    def __init__(self, what: str, *, much: int) -> None:
        super().__init__(f"{much} of {what}")
        self.what = what
        self.much = much


class Holds(Exception):
    """An error that cannot be pickled."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()


class Liar(Exception):
    """An error that does not let itself be looked at."""

    def __str__(self) -> str:
        raise SystemExit

    def __reduce__(self) -> Any:
        raise GeneratorExit


@tasks.task(process=True)
def square(n: int) -> int:
    return n * n


@tasks.task(process=True)
def told(
    *,
    attempt: Attempt = Injected,
    task_id: TaskId = Injected,
    metadata: Metadata | None = Injected,
) -> list[Any]:
    print("a process says", attempt)
    return [os.getpid(), int(attempt), str(task_id), dict(metadata or {}), threading.active_count()]


@tasks.task(process=True)
def fire(*, firing: Firing = Injected) -> str:
    return firing.schedule


@tasks.task(process=True)
def hold(folder: Path, name: str) -> int:
    """Write down the process, and keep a core busy until there is a file `go`."""
    (folder / f".{name}").write_text(str(os.getpid()))
    (folder / f".{name}").rename(folder / name)
    while not (folder / "go").exists():
        sum(range(1000))
    return os.getpid()


@tasks.task(process=True)
def die(how: int) -> None:
    """End by this signal; or with this exit code, if it is negative."""
    if how < 0:
        os._exit(-how)
    os.kill(os.getpid(), how)
    time.sleep(60)


@tasks.task(process=True)
def give(what: str, size: int = 0) -> Any:
    if what == "lock":
        return threading.Lock()
    if what == "coroutine":
        return later()
    return b"x" * size


async def later() -> None:
    """Nothing."""


ERRORS: dict[str, Any] = {
    "ValueError": lambda: ValueError("no", 5),
    "OSError": lambda: FileNotFoundError(2, "no such file", "shop.db"),
    "UnicodeDecodeError": lambda: UnicodeDecodeError("utf-8", b"x", 0, 1, "bad"),
    "SystemExit": lambda: SystemExit(3),
    "AbortError": lambda: AbortError(ValueError("no")),
    "AbortError of a lock": lambda: AbortError(Holds("no")),
    "RetryAfterError": lambda: RetryAfterError(Needs("tea", much=2), 30),
    "DeferredError": lambda: DeferredError("later"),
    "SuspendError": lambda: SuspendError(60, "closed"),
    "Needs": lambda: Needs("tea", much=2),
    "Holds": lambda: Holds("a lock"),
    "Liar": lambda: Liar("text"),
    "KeyboardInterrupt": lambda: KeyboardInterrupt("now"),
    "KeyboardInterrupts": lambda: BaseExceptionGroup("two", [KeyboardInterrupt(), ValueError("no")]),
}


@tasks.task(process=True)
def fail(name: str) -> None:
    raise ERRORS[name]()


@tasks.task(process=True)
def fail_behind() -> None:
    try:
        raise Holds("first")
    except Holds as error:
        raise Needs("tea", much=3) from error
