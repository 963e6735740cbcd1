"""Fixtures and hooks for all tests; pytest-trio adds `autojump_clock` and `nursery`."""

import signal
import threading
from collections.abc import Generator

import pytest
from hypothesis import settings

from tests._real_time import no_short_bounds

# Under a mock clock the wall clock says nothing about an example, so no deadline.
settings.register_profile("trio_tasks", deadline=None, print_blob=True)
settings.load_profile("trio_tasks")

# A shell that starts the tests in the background has SIGINT ignored, and child processes inherit that. Those that
# interrupt themselves would never end.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, None, None]:
    with no_short_bounds():
        return (yield)
