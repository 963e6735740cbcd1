"""A function that runs a program under one seed after another, until it fails; and the limits of such a run."""

from __future__ import annotations

import inspect
import math
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, final

import trio

from ..._checks import check_callable, check_count, check_seconds
from ..._concurrency.exception_groups import leaves
from ..._concurrency.stacks import current_line
from ..._handlers.parameters import handler_name
from .recording import Recording, as_text
from .seeded import run_seeded
from .simulation import Simulation

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    Program = Callable[[Simulation], Awaitable[object]] | Callable[[], Awaitable[object]]
    from collections.abc import Generator


_SHOWN = 25
"""Events that the message of a failure lists: the last ones."""
_MOST_ROUNDS = 1_000_000
"""Rounds of the scheduler in which virtual time may stand still: some seconds of real time."""


@final
@dataclass(frozen=True, slots=True)
class SimulationReport:
    """The report of a simulation without a failure.

    Attributes:
      seeds: the number of runs.
      events: the number of events that were recorded in them.
      virtual_seconds: the time that passed in them, on trio's clock.
      real_seconds: the real time that they took.
    """

    seeds: int
    events: int
    virtual_seconds: float
    real_seconds: float = field(compare=False)

    def __str__(self) -> str:
        return f"{self.seeds} runs, {self.events} events, {self.virtual_seconds:.0f} s of virtual time"


@final
class SimulationFailed(AssertionError):
    """An error: the program fails under this seed; ``__cause__`` is the error that it raised.

    Attributes:
      seed: the seed that fails.
      events: the events that were recorded until the failure.
      virtual_seconds: the time that had passed, on trio's clock.
      is_repeatable: True if a second run under the seed failed again after the same events. If not, something in the
        program does not depend on the seed.
    """

    def __init__(self, message: str, *, seed: int, run: _Run, is_repeatable: bool) -> None:
        super().__init__(message)
        self.seed = seed
        self.events = run.events
        self.virtual_seconds = run.seconds
        self.is_repeatable = is_repeatable


def simulate(program: Program, *, seeds: int | Iterable[int] = 100, time_limit: float = 86_400.0) -> SimulationReport:
    """Run ``program`` once for each seed, each time with another schedule, until one fails.

    >>> async def program(simulation: Simulation) -> None:
    ...     storage = MemoryStorage[int]()
    ...     await simulation.start(Worker("a", storage, handle))
    ...     await simulation.start(Worker("b", storage, handle))
    ...     await storage.push_bulk(range(10))
    ...     storage.close()
    ...     await simulation.wait_workers_stopped()
    ...     assert total == 45
    >>> simulate(program, seeds=1000)

    Each run is a run of :func:`run_seeded`, with the same rules: the same seed makes the same run. A run has failed if
    the program raises, or if anything in ``simulation.nursery`` raises. Errors of handlers are the outcomes of their
    tasks: check those at the end of the program.

    Args:
      program: an async function of one :class:`Simulation`, or of nothing.
      seeds: the seeds to run; or their number, counted from 0.
      time_limit: the seconds of virtual time that one run may take. Without it, a run that waits for ever would not
          end.

    Raises:
      SimulationFailed: a seed fails. The message says which, how, when and after what, and how to run it again.
      TypeError, ValueError: an argument is wrong, or there is no seed.
      RuntimeError: as of :func:`run_seeded`: in an async test, for example.

    A ``BaseException`` that is not an ``Exception``, such as ``KeyboardInterrupt``, comes out as it is.
    """
    check_callable(program, "program", "async program(simulation), or async program()")
    check_seconds(time_limit, "time_limit", positive=True)
    chosen: Iterable[int] = range(check_count(seeds, "seeds")) if isinstance(seeds, int) else seeds
    count, events, virtual, began = 0, 0, 0.0, time.perf_counter()
    for seed in chosen:
        run = _Run(program, seed, time_limit)
        run.run()
        if run.error is not None:
            raise _failed(run, count + 1) from run.error
        count, events, virtual = count + 1, events + len(run.events), virtual + run.seconds
    if not count:
        raise ValueError("seeds is empty: nothing was simulated")
    return SimulationReport(count, events, virtual, time.perf_counter() - began)


@final
class _Run:
    """A run of the program under one seed, with its events and its error."""

    def __init__(self, program: Callable[..., Awaitable[object]], seed: int, time_limit: float) -> None:
        self.program = program
        self.seed = seed
        self.time_limit = time_limit
        self.events = Recording()
        self.seconds = 0.0
        self.error: Exception | None = None

    def run(self) -> None:
        spin_detector = SpinDetector()
        run_seeded(self._main, spin_detector, seed=self.seed, instruments=[spin_detector])

    async def _main(self, spin_detector: SpinDetector) -> None:  # noqa: ASYNC910  as the program is
        try:
            with ExitStack() as cleanup:
                async with trio.open_nursery() as nursery:
                    simulation = Simulation(self.seed, nursery, self.events, cleanup)
                    with limit_virtual_time(simulation, self.time_limit, spin_detector):
                        await self.program(*([simulation] if _needs_one(self.program) else []))
                    nursery.cancel_scope.cancel()
        except Exception as error:
            self.error = _only_error(error)
        finally:
            self.seconds = trio.current_time()


def _needs_one(program: Callable[..., Any]) -> bool:
    """Return True if the program takes a required argument."""
    try:
        inspect.signature(program).bind()
    except TypeError:
        return True
    return False


def _only_error(error: Exception) -> Exception:
    """Return the only error in a group, or the group if it holds several."""
    several = list(leaves(error))
    return several[0] if len(several) == 1 and isinstance(several[0], Exception) else error


def _written(value: object) -> str:
    """Return the source text for a program, or for an argument that was bound to it."""
    if isinstance(value, partial):
        keywords = (f"{name}={_written(each)}" for name, each in value.keywords.items())
        return f"partial({', '.join([_written(value.func), *map(_written, value.args), *keywords])})"
    return handler_name(value) if callable(value) else as_text(value)


def _failed(run: _Run, count: int) -> SimulationFailed:
    again = _Run(run.program, run.seed, run.time_limit)
    again.run()
    is_repeatable = type(again.error) is type(run.error) and list(again.events) == list(run.events)
    shown = [f"  {each}" for each in run.events[-_SHOWN:]]
    said = "\n  ".join(f"{type(run.error).__name__}: {run.error}".splitlines())
    lines = [
        f"seed {run.seed} fails (run {count}): {said}",
        f"after {run.seconds:.3f} s of virtual time and {len(run.events)} events"
        + (", of which these are the last:" if len(run.events) > len(shown) else ":" if shown else ""),
        *shown,
        f"to run it again: simulate({_written(run.program)}, seeds=[{run.seed}])",
    ]
    if not is_repeatable:
        lines.append(
            "it was run again, and took other steps: the program depends on something besides the seed (a clock, "
            "random numbers, the order of a set, a thread, or something that an earlier run has changed)"
        )
    return SimulationFailed("\n".join(lines), seed=run.seed, run=run, is_repeatable=is_repeatable)


@final
class SpinDetector(trio.abc.Instrument):
    """Counts the scheduler's rounds since virtual time last moved, and cancels a scope when there are too many."""

    def __init__(self, most: int = _MOST_ROUNDS) -> None:
        self.scope = trio.CancelScope()
        self._most = most
        self._rounds = 0
        self._time = -math.inf

    def before_io_wait(self, timeout: float) -> None:
        """Count a round of the scheduler."""
        now = trio.current_time()
        if now != self._time:
            self._time, self._rounds = now, 0
        self._rounds += 1
        if self._rounds > self._most:
            self.scope.cancel()


@contextmanager
def limit_virtual_time(
    simulation: Simulation, limit: float, spin_detector: SpinDetector
) -> Generator[None, None, None]:
    """Limit the virtual time that the block may take.

    Raises:
      trio.TooSlowError: it took longer, or time stood still; it says where the program was, and its tasks.
    """
    me = trio.lowlevel.current_task()
    found: list[str] = []

    async def look() -> None:
        await trio.sleep(limit)
        found.extend(_places(simulation, me))
        late.cancel()

    late = trio.CancelScope()
    simulation.nursery.start_soon(look)
    with late, spin_detector.scope:
        yield
    if late.cancelled_caught:
        raise trio.TooSlowError("\n".join([f"the program did not end within {limit:g} s of virtual time:", *found]))
    if spin_detector.scope.cancelled_caught:
        raise trio.TooSlowError(
            f"virtual time stands still at {trio.current_time():g} s, though trio tasks keep running: is there a loop "
            "that tries again without waiting?"
        )


def _places(simulation: Simulation, program: trio.lowlevel.Task) -> list[str]:
    tasks = [f"  task {task_id} is at {place}" for task_id, place in simulation.current_lines().items()]
    return [f"  the program is at {current_line(program)}", *tasks]
