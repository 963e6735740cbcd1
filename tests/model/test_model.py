"""Tests that compare each storage with the model, over random histories."""

from __future__ import annotations

import logging
import os
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from trio_tasks import Rate

from tests._scale import IS_NIGHTLY, scaled

from ._machine import Machine
from ._participants import Held
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


@pytest.mark.parametrize("kind", [InMemory, InFile, InSqlite], ids=["memory", "file", "sqlite"])
def test_a_history_in_which_a_key_waits_for_its_rate(kind: type[Store]) -> None:
    """Few random histories come to it: the second task of a key comes when the time of its rate is over, not before."""
    machine: Any = type(f"Rated{kind.__name__}", (Machine,), {"kind": kind})()
    limits = {"concurrency": None, "per_key": None, "rate": None, "key_rate": Rate(1, per=13.0)}
    try:
        machine.set_limits(worker=0, key=None, **limits)
        machine.push_bulk(worker=0, number=1, priority=0, delay=0.0)
        for _ in range(4):  # two of them have a key
            machine.call(worker=0, delay=0.0, unique=None)
        came = [machine.receive(worker=0) for _ in range(5)]
        machine.pass_time(seconds=12.0)
        came.append(machine.receive(worker=0))
        machine.pass_time(seconds=1.0)
        came.append(machine.receive(worker=0))
    finally:
        machine.teardown()
    assert [isinstance(each, Held) for each in came] == [True, True, True, True, False, False, True]
