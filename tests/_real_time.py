"""A rule for tests: a time limit on the real clock must be a minute or more, since a slow machine is no fault.

A short bound belongs into virtual time; and who wants to see that nothing happens for a moment says so here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
import trio

LEAST = 60.0
"""Seconds; in a test that a busy machine runs thirty times slower, what takes two is not over in less."""

TESTS = str(Path(__file__).parent)

ALLOWED: dict[tuple[str, str], str] = {
    ("promises/test_promise_06_what_an_attempt_leaves_behind.py", "in_a_scope_that_ends"): "its end is what is tried",
    ("storages/test_sqlite_failures.py", "use"): "it goes on, however far it came",
    ("storages/test_sqlite_failures.py", "after"): "so long nothing more is to come",
}
"""Functions that set a shorter bound on the real clock, and why no machine is too slow for it."""

Bound = Callable[..., AbstractContextManager[Any]]


def checked(bound: Bound) -> Bound:
    """Wrap a function of trio so that it refuses a short time limit in a test with a real clock."""

    @wraps(bound)
    def call(seconds: float, **options: bool) -> AbstractContextManager[Any]:
        code = sys._getframe(1).f_code
        if 0 < seconds < LEAST and code.co_filename.startswith(TESTS) and is_real(trio.lowlevel.current_clock()):
            place = Path(code.co_filename).relative_to(TESTS).as_posix(), code.co_name
            assert place in ALLOWED, (
                f"{place}: a bound of {seconds:g} s on the real clock: a slow machine would fail this test. Wait for "
                f"an event, with a bound of {LEAST:g} s or more; use a virtual clock; or add it to {__name__}.ALLOWED"
            )
        return bound(seconds, **options)

    return call


def is_real(clock: trio.abc.Clock) -> bool:
    """Return True if time on this clock passes by itself."""
    return 0.9 < clock.deadline_to_sleep_time(clock.current_time() + 1.0) < 1.1


@contextmanager
def no_short_bounds() -> Generator[None, None, None]:
    """Apply the rule inside the block."""
    with pytest.MonkeyPatch.context() as patch:
        for bound in (trio.fail_after, trio.move_on_after):
            patch.setattr(trio, bound.__name__, checked(bound))
        yield
