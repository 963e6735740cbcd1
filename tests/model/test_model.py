"""Tests that compare each storage with the model, over random histories."""

from __future__ import annotations

import logging
import os

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests._scale import IS_NIGHTLY, scaled

from ._machine import Machine
from ._stores import InFile, InMemory, InMemoryEncoded, InSqlite, Store

pytestmark = [pytest.mark.searching, pytest.mark.nightly]

EXAMPLES = int(os.environ.get("TRIO_TASKS_EXAMPLES", "0"))
"""How many histories; by default a few, the same ones each time but at night."""
STEPS = int(os.environ.get("TRIO_TASKS_STEPS", "40"))


@pytest.mark.timeout(600 + 5 * EXAMPLES)
@pytest.mark.parametrize(
    ("kind", "examples"),
    [(InMemory, 600), (InMemoryEncoded, 200), (InFile, 600), (InSqlite, 400)],
    ids=["memory", "encoded", "file", "sqlite"],
)
def test_a_storage_does_as_the_model_says(kind: type[Store], examples: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, "trio_tasks")  # several storages on one file are a warning, and meant here
    machine = type(f"Machine{kind.__name__}", (Machine,), {"kind": kind})
    checks = settings(
        max_examples=EXAMPLES or scaled(examples),
        stateful_step_count=STEPS,
        derandomize=not (EXAMPLES or IS_NIGHTLY),
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(machine, settings=checks)
