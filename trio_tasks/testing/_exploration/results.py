"""The results of an exploration: a summary, or the shortest run that fails."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, final

from ..._concurrency.exception_groups import leaves

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .run import CutPoint

_SHOWN = 12
"""Steps before a cut that the message lists."""


@final
@dataclass(frozen=True, slots=True)
class Exploration:
    """The summary of an exploration in which the scenario held at every cut.

    Attributes:
      cuts: the number of runs that were cut, under all seeds together.
      lines: the lines at which the cancellation came, ``path:number in function: source``, and how often at each: lines
          of the user's own, or what there is in their place.
      seeds: the seeds under which it was run.
      seconds: the real time that it took.
    """

    cuts: int
    lines: Mapping[str, int] = field(hash=False)
    seeds: tuple[int, ...]
    seconds: float

    def __str__(self) -> str:
        return f"{self.cuts} cuts at {len(self.lines)} lines, under {len(self.seeds)} seeds, in {self.seconds:.1f} s"


@final
class BrokenByCut(AssertionError):
    """An error: the scenario fails when it is cancelled at some moment; its error is the ``__cause__``.

    Attributes:
      seed: the seed of the schedule.
      number: the number of the cut, counted from 1; 0 if the scenario fails without a cut.
      cuts: the number of cuts under this seed.
      part: the name of the part that was cancelled; empty for ``with cut:``.
      task: the name of the trio task that was about to run; if all waited, of the first one.
      lines: the user's own lines at which ``trio.Cancelled`` was raised, ``path:number in function: source``, the first
          one first; a second one is often what went wrong, such as in a ``finally`` that has no shield.
      steps: the steps from the beginning to the moment of the cut.
      others: the number of other cuts that fail.
    """

    def __init__(self, seed: int, number: int, cuts: int, part: str = "") -> None:
        super().__init__(seed, number, cuts, part)
        self.seed = seed
        self.number = number
        self.cuts = cuts
        self.part = part
        self.task = ""
        self.lines: tuple[str, ...] = ()
        self.steps: tuple[str, ...] = ()
        self.others = 0

    def __str__(self) -> str:
        if not self.number:
            return f"under seed {self.seed} the scenario fails without being cut: {self._cause_text()}"
        what = f"part {self.part!r}" if self.part else "what"
        steps = [f"  {n}. {step}" for n, step in enumerate(self.steps, start=1)]
        hidden = len(steps) - _SHOWN
        return "\n".join(
            [
                f"{what} is cancelled at moment {len(steps)}, in trio task {self.task}, and then: {self._cause_text()}",
                "The cancellation was raised at",
                *(f"  {line}" for line in self.lines or ["no line"]),
                "The moments before, and the one of the cut:",
                *([f"  … {hidden} more"] if hidden > 0 else []),
                *steps[-_SHOWN:],
                f"This is cut {self.number} of {self.cuts} under seed {self.seed}; {self.others} others fail. "
                f"This one alone: explore_cancellations(…, seeds=[{self.seed}], at={self.number})",
            ]
        )

    def _cause_text(self) -> str:
        cause = self.__cause__
        if cause is None:
            return "for an unknown reason"
        return ", ".join(f"{type(each).__name__}: {each}" for each in leaves(cause))


@final
class DivergedError(RuntimeError):
    """An error: the scenario took different steps in two runs under the same seed, so it cannot be explored."""

    def __init__(self, seed: int, number: int, expected: CutPoint | None, seen: CutPoint | None) -> None:
        was = f"{expected}" if expected is not None else "over"
        became = f"{seen}" if seen is not None else "another, or none"
        super().__init__(
            f"under seed {seed}, moment {number} of the scenario was in the first run\n  {was}\nand in a later run\n"
            f"  {became}\n"
            "The scenario depends on something besides the seed: threads or sockets, the wall clock, the order of a "
            "set, os.urandom, or a global or a file that an earlier run has changed."
        )
