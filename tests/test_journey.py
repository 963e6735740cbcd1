"""The way of one task runs through few files; ``python -m tests.journey`` prints them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.journey import BOUNDS

ROOT = Path(__file__).parents[1]


@pytest.mark.once
def test_the_way_of_one_task_runs_through_few_files() -> None:
    # In a process of its own: a profiler sees all that goes on in one.
    command = [sys.executable, "-m", "tests.journey"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.stdout.count("the way of one task") == len(BOUNDS), run.stderr
    assert run.returncode == 0, run.stdout
