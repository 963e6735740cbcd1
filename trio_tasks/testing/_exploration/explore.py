"""The function that runs a scenario once for each moment at which it can be cancelled."""

from __future__ import annotations

import inspect
import time
from collections import Counter
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, final, overload

from ..._checks import check_callable, check_count, check_seconds, check_several
from .results import BrokenByCut, DivergedError, Exploration
from .run import Scenario, ScenarioRun

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from .cut import Cut
    from .run import CutPoint


@overload
def explore_cancellations(
    scenario: Callable[[Cut], Awaitable[object]],
    *,
    invariant: Callable[[], object] | None = None,
    seeds: Iterable[int] = (0,),
    time_limit: float = 3600.0,
    at: int | None = None,
) -> Exploration: ...
@overload
def explore_cancellations(
    scenario: Callable[[], Awaitable[object]],
    *,
    invariant: Callable[[], object] | None = None,
    seeds: Iterable[int] = (0,),
    time_limit: float = 3600.0,
    at: int | None = None,
) -> Exploration: ...
def explore_cancellations(
    scenario: Callable[..., Awaitable[object]],
    *,
    invariant: Callable[[], object] | None = None,
    seeds: Iterable[int] = (0,),
    time_limit: float = 3600.0,
    at: int | None = None,
) -> Exploration:
    """Run a scenario once, and then again for each moment of that run, cancelled at that moment.

    >>> async def scenario(cut: Cut) -> None:
    ...     storage = MemoryStorage[int]()
    ...     await storage.push(1)
    ...     with cut:
    ...         await Worker("w", storage, handler).run()
    ...     assert storage.statistics().running == 0
    >>> print(explore_cancellations(scenario))
    41 cuts at 5 lines, under 1 seeds, in 0.0 s

    The block ``with cut:`` is cancelled. The code after it asserts what must hold after any cancellation. Parts
    with different names are cancelled one by one; see :class:`Cut`. A scenario that takes no argument is cancelled as a
    whole, and ``invariant`` is called afterwards, in the same run. Each run has to make its own storages, files and
    other things that it changes.

    A run has three kinds of moments: a part is entered; a trio task is about to take a step; all trio tasks wait. Each
    moment at which a block of the part is open is tried, whichever trio task is about to run. A trio task that waits
    inside the part is cancelled where it waits; one that is about to run, at its next checkpoint. A shield delays this,
    as it always does. trio cannot cancel a single trio task of a nursery, so a part, such as a worker, is cancelled
    with all trio tasks in it.

    Args:
      scenario: an async function; if it is not cut, it must end by itself and without an error.
      invariant: a function, sync or async, called after the scenario. It holds unless it raises, or returns False.
      seeds: the seeds; the whole exploration is repeated under the schedule of each; see :func:`run_seeded`.
      time_limit: the seconds of virtual time that a run may take, invariant included. A run that takes longer fails,
          with the lines at which its trio tasks are stuck.
      at: the number of the only cut to make, for example to look at it in a debugger.

    Raises:
      BrokenByCut: the scenario failed: of all cuts at which it does, this is one that comes after the fewest moments.
      DivergedError: it did not take the same steps twice.
      ValueError: it never entered ``with cut:``; or there is no cut of the number ``at``.
      RuntimeError: it is called inside a trio run: it makes its own.

    The time that it takes grows with the square of the scenario's length: thousands of moments take minutes.
    """
    check_callable(scenario, "scenario", "an async function")
    if invariant is not None:
        check_callable(invariant, "invariant", "a function without arguments")
    limit = check_seconds(time_limit, "time_limit", positive=True)
    if at is not None:
        check_count(at, "at")
    tried = check_several(seeds, "seeds", "whole numbers")
    if not tried:
        raise ValueError("seeds is empty; give at least one seed, such as 0")
    tried_scenario = Scenario(scenario, _takes_an_argument(scenario), invariant, limit)
    began = time.perf_counter()
    lines: Counter[str] = Counter()
    failures: list[_Failure] = []
    cuts = 0
    for seed in tried:
        exploring = _SeedExploration(tried_scenario, seed)
        cuts += exploring.explore(at)
        lines += exploring.lines
        failures += exploring.failures
    if failures:
        shortest = min(failures, key=lambda each: each.at)
        shortest.broken.others = len(failures) - 1
        raise shortest.broken from shortest.error
    return Exploration(cuts, MappingProxyType(dict(lines.most_common())), tried, time.perf_counter() - began)


def _takes_an_argument(scenario: Callable[..., Any]) -> bool:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return any(
        each.kind in kinds and each.default is each.empty for each in inspect.signature(scenario).parameters.values()
    )


class _Failure(NamedTuple):
    at: int
    broken: BrokenByCut
    error: BaseException


@final
class _SeedExploration:
    """All runs of a scenario under one seed."""

    def __init__(self, scenario: Scenario, seed: int) -> None:
        self.lines: Counter[str] = Counter()
        self.failures: list[_Failure] = []
        self._scenario = scenario
        self._seed = seed

    def explore(self, only: int | None) -> int:
        """Run the scenario once for each cut, or for one cut only; return the number of these runs."""
        first_run = self._run_uncut()
        cuts = [(at, part) for at, cut_point in enumerate(first_run, start=1) for part in cut_point.parts]
        if not cuts:
            raise ValueError("the scenario never entered `with cut:`, so there is nothing to cancel")
        if only is not None and only > len(cuts):
            raise ValueError(f"at={only} is too large: under seed {self._seed} there are {len(cuts)} cuts")
        numbers = range(1, len(cuts) + 1) if only is None else [only]
        for number in numbers:
            at, part = cuts[number - 1]
            run = ScenarioRun(self._scenario, self._seed, first_run=first_run, at=at, part=part)
            run.run()
            self._check_run(run, first_run, number, len(cuts), at, part)
        return len(numbers)

    def _run_uncut(self) -> Sequence[CutPoint]:
        """Run the scenario without a cancellation; return the moments at which it can be cancelled."""
        run = ScenarioRun(self._scenario, self._seed)
        run.run()
        if run.error is not None:
            raise BrokenByCut(self._seed, 0, 0) from run.error
        return run.cut_points

    def _check_run(
        self, run: ScenarioRun, first_run: Sequence[CutPoint], number: int, cuts: int, at: int, part: str
    ) -> None:
        if run.differs_at:
            expected = first_run[run.differs_at - 1] if run.differs_at <= len(first_run) else None
            seen = run.cut_points[-1] if run.cut_points and run.differs_at == at else None
            raise DivergedError(self._seed, run.differs_at, expected, seen) from run.error
        self.lines.update(run.lines)
        if run.error is not None:
            broken = BrokenByCut(self._seed, number, cuts, part)
            if all(each.at > at for each in self.failures):
                broken.task = run.cancelled_at[0].task if run.cancelled_at else ""
                broken.lines = tuple(run.lines)
                broken.steps = tuple(map(str, first_run[:at]))
            self.failures.append(_Failure(at, broken, run.error))
