"""Tests of crash safety: short crash trials. `python -m tests.crash` is the long one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.crash._trial import Plan, Trial

if sys.platform == "win32":
    pytest.skip("Windows has no such signals", allow_module_level=True)

pytestmark = pytest.mark.real


@pytest.mark.timeout(900)  # a busy machine takes as long as it takes: the trial ends when nothing happens any more
def test_a_killed_process_loses_no_task(tmp_path: Path) -> None:
    """Acknowledged is stored, stored is done, once, and nothing is done again without a reason."""
    verdict = Trial(Plan(tasks=1200, kills=20, processes=3, apart=0.5, seed=1), tmp_path).run()
    assert not verdict.faults, "\n".join([*verdict.faults, str(verdict.figures)])
    assert verdict.figures["kills of workers"] > 5
    assert verdict.figures["kills of the pusher"] > 0
    assert verdict.figures["lost to a kill"] > 5, "the trial was too gentle to show anything"
