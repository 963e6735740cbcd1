"""A proof that a handler may be run twice: it is cancelled at each moment, delivered again, and its traces are compared
with those of one clean run.

The idea of "deliver it again, and compare the state of the world" is that of Jepsen's checkers, applied to a handler.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing, nullcontext
from copy import deepcopy
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, final

from ..._checks import check_callable
from ..._tasks.outcome import Succeeded
from ..._tasks.task import Task
from .._run_once import run_once
from .._scripted_backend import is_task
from .._simulation.seeded import run_seeded
from .explore import explore_cancellations

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from typing_extensions import Unpack

    from ..._contracts.layer import Layer
    from ..._tasks.outcome import Outcome
    from ..._worker.options import WorkerOptions
    from .cut import Cut
    from .results import Exploration

_SQLITE = b"SQLite format 3\0"
"""The first bytes of each SQLite file."""
_BESIDE_SQLITE = ("-wal", "-shm", "-journal")
"""The ends of the names of files that SQLite keeps beside a database; their content is part of the database's."""


@final
class Redelivery:
    """The argument of a test for :func:`explore_redelivery`: it delivers tasks to handlers, and notes what to compare.

    Attributes:
      directory: an empty directory for the files of this run. All of them are compared with those of the clean run:
          SQLite files by their content, other files byte by byte.
    """

    def __init__(self, directory: Path, cut: Cut | None = None, *, twice: bool = False) -> None:
        self.directory = directory
        self._cut = cut
        self._twice = twice
        self._outcomes: list[Outcome] = []
        self._values: dict[str, Any] = {}

    async def deliver(
        self,
        handler: Callable[..., Any],
        args: Any,
        *,
        layers: Iterable[Layer[Any, Any]] = (),
        **options: Unpack[WorkerOptions],
    ) -> Outcome:
        """Make one attempt at a task. If this run is to be cancelled within it, cancel it, and make another attempt.

        Args:
          handler: the handler, as for :func:`run_once`.
          args: its args, or a whole :class:`Task`. The task has the same id in each attempt, and in each run.
          layers, options: those of a worker.

        Returns:
          the outcome of the last attempt.
        """
        number = len(self._outcomes) + 1
        task = args if is_task(args) else Task.builder(args).id(f"task-{number}").build()
        attempt = partial(run_once, handler, task, layers=layers, **options)
        was_cut = self._has_come
        outcomes: list[Outcome] = []
        with nullcontext() if self._cut is None else self._cut:
            outcomes.append(await attempt(attempt=1))
        if self._twice or self._has_come != was_cut or not outcomes:
            outcomes.append(await attempt(attempt=2))
        self._outcomes.append(outcomes[-1])
        return outcomes[-1]

    def compare(self, **values: Any) -> None:
        """Note values that must be the same after any run, such as the charges that a fake bank has made.

        They are copied, and compared by ``==``. A later value of a name replaces an earlier one.
        """
        self._values.update(deepcopy(values))

    @property
    def _has_come(self) -> bool:
        return self._cut is not None and self._cut.has_come

    def traces(self) -> dict[str, Any]:
        """Return all that is compared, by a name for people."""
        outcomes = {
            f"delivery {number}": "succeeded" if isinstance(outcome, Succeeded) else type(outcome).__name__.lower()
            for number, outcome in enumerate(self._outcomes, start=1)
        }
        return {**outcomes, **self._values, **_contents(self.directory)}


def explore_redelivery(
    test: Callable[[Redelivery], Awaitable[object]], *, seeds: Iterable[int] = (0,), time_limit: float = 3600.0
) -> Exploration:
    """Check that a handler may be run twice: that an attempt which was cut short, and another one, leave the same
    traces as one attempt.

    >>> async def test(redelivery: Redelivery) -> None:
    ...     bank = FakeBank()
    ...     await redelivery.deliver(charge, Order(7), data=[bank])
    ...     redelivery.compare(charges=bank.charges)
    >>> explore_redelivery(test)

    A task whose worker was killed is delivered again, by any storage; so its handler has to bear that. The test is run
    once as it is: that is the clean run. Then it is run with each attempt made twice, and then once for each moment at
    which the attempt can be cancelled, with a second attempt after that; see :func:`explore_cancellations`. After each
    run the files in ``redelivery.directory``, the values given to ``redelivery.compare``, and how the deliveries ended
    must be the same as after the clean run.

    Args:
      test: an async function that is given a :class:`Redelivery`. It makes everything that it changes anew.
      seeds: the seeds of the schedules under which it is run; see :func:`run_seeded`.
      time_limit: the seconds of virtual time that a run may take.

    Raises:
      AssertionError: the traces differ after two full attempts.
      BrokenByCut: they differ after a cut; ``__cause__`` says what differs, ``lines`` where it was cut.
      ValueError: the test delivers nothing.
      DivergedError, RuntimeError: as :func:`explore_cancellations` does.

    A sync handler is run in place, so it is not cut inside. A process that dies between two lines without a checkpoint
    is not tried either.
    """
    check_callable(test, "test", "an async function of a Redelivery")
    tried = (*seeds,)
    clean = run_seeded(partial(_run, test), seed=next(iter(tried), 0))
    _check_same(clean, run_seeded(partial(_run, test, twice=True), seed=next(iter(tried), 0)), "two full attempts")

    async def scenario(cut: Cut) -> None:
        _check_same(clean, await _run(test, cut), "a cancellation and a second attempt" if cut.has_come else "one run")

    return explore_cancellations(scenario, seeds=tried, time_limit=time_limit)


async def _run(
    test: Callable[[Redelivery], Awaitable[object]], cut: Cut | None = None, *, twice: bool = False
) -> dict[str, Any]:
    """Run the test in a new directory; return the traces that it leaves."""
    with TemporaryDirectory(prefix="redelivery-") as directory:
        redelivery = Redelivery(Path(directory), cut, twice=twice)
        await test(redelivery)
        return redelivery.traces()


def _check_same(clean: Mapping[str, Any], found: Mapping[str, Any], after: str) -> None:
    differing = [name for name in sorted({*clean, *found}) if clean.get(name, _MISSING) != found.get(name, _MISSING)]
    if differing:
        lines = [
            f"  {name}: {_shown(clean.get(name, _MISSING))} after one clean run, and then "
            f"{_shown(found.get(name, _MISSING))}"
            for name in differing
        ]
        raise AssertionError("\n".join([f"after {after}, this differs:", *lines]))


@final
class _Missing:
    """The value of a name that is not there."""

    def __repr__(self) -> str:
        return "nothing"


_MISSING = _Missing()
_LONGEST = 300


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}… ({len(text)} characters)"


def _contents(directory: Path) -> dict[str, Any]:
    """Return the content of each file in a directory, by its path in there."""
    files = [path for path in sorted(directory.rglob("*")) if path.is_file()]
    databases = [path for path in files if _is_sqlite(path)]
    beside = {f"{path}{end}" for path in databases for end in _BESIDE_SQLITE}
    return {
        path.relative_to(directory).as_posix(): _dump(path) if path in databases else path.read_bytes()
        for path in files
        if str(path) not in beside
    }


def _is_sqlite(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_SQLITE)) == _SQLITE


def _dump(path: Path) -> list[str]:
    """Return the content of a database as the statements that make it."""
    with closing(sqlite3.connect(path)) as connection:
        return [*connection.iterdump()]
