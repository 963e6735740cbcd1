"""Seeded scheduling of trio tasks, by private names of trio that no other module uses.

trio has a hook for Hypothesis: told to, it puts the trio tasks that are ready in the order in which they were made, and
shuffles them with a random number generator of its own. We do what the hook does, without Hypothesis, and undo it.
"""

from __future__ import annotations

import importlib
import random
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import trio

if TYPE_CHECKING:
    from collections.abc import Generator

_MODULE = "trio._core._run"
_FLAG = "_ALLOW_DETERMINISTIC_SCHEDULING"
_GENERATOR = "_r"
_AGE = "_counter"


@contextmanager
def seeded_scheduling(seed: str) -> Generator[None, None, None]:
    """Decide by a seed in which order trio runs the trio tasks that are ready, in all runs that begin in the block.
    Afterwards trio's generator is as it was.

    Raises:
      RuntimeError: this trio keeps its generator elsewhere.
    """
    run = _scheduler()
    rng: random.Random = getattr(run, _GENERATOR)
    was_loaded, state = getattr(run, _FLAG), rng.getstate()
    setattr(run, _FLAG, True)
    rng.seed(seed)
    try:
        yield
    finally:
        setattr(run, _FLAG, was_loaded)
        rng.setstate(state)


def _scheduler() -> Any:
    try:
        run = importlib.import_module(_MODULE)
    except ImportError as error:
        raise _unsupported_trio(_MODULE) from error
    if not isinstance(getattr(run, _FLAG, None), bool):
        raise _unsupported_trio(f"{_MODULE}.{_FLAG}")
    if not isinstance(getattr(run, _GENERATOR, None), random.Random):
        raise _unsupported_trio(f"{_MODULE}.{_GENERATOR}")
    if not hasattr(trio.lowlevel.Task, _AGE):
        raise _unsupported_trio(f"trio.lowlevel.Task.{_AGE}")
    return run


def _unsupported_trio(name: str) -> RuntimeError:
    return RuntimeError(
        f"trio's schedule cannot be decided by a seed: trio {trio.__version__} has no {name}, or one of another type. "
        "trio_tasks.testing relies on it; please report this to trio_tasks"
    )
