"""Tests of conservation: in random programs with faults, no task is lost, settled twice, or in two places.

``TRIO_TASKS_SEEDS=5000-9000`` runs other seeds, or more, over each storage; ``TRIO_TASKS_SEEDS=1234`` one; and
``python -m tests.simulation memory 1234`` says what happens in it.
"""

from __future__ import annotations

import os
from dataclasses import fields

import pytest
from trio_tasks.testing import Faults

from tests._logging_off import logging_off
from tests._scale import seeds
from tests.simulation._found import FOUND
from tests.simulation._program import Program
from tests.simulation._stores import KINDS, Kind

pytestmark = [pytest.mark.searching, pytest.mark.nightly]

_SHARE = 20  # seeds in one test
_USUAL: dict[Kind, range] = {"memory": seeds(3000), "file": seeds(600), "sqlite": seeds(400)}
_FIRST, _, _LAST = os.environ.get("TRIO_TASKS_SEEDS", "").partition("-")
_SEEDS = dict.fromkeys(KINDS, range(int(_FIRST), int(_LAST or _FIRST) + 1)) if _FIRST else _USUAL


def run(kind: Kind, seed: int) -> Program:
    program = Program(kind, seed)
    with logging_off():
        program.run()
    assert not program.checker.faults, f"to see it again: python -m tests.simulation {kind} {seed}"
    return program


@pytest.mark.parametrize(("kind", "first"), [(kind, first) for kind in KINDS for first in _SEEDS[kind][::_SHARE]])
def test_conservation(kind: Kind, first: int) -> None:
    """At the end of a program: pushed = settled + still there, and the events agree with the storage's checker."""
    for seed in range(first, min(first + _SHARE, _SEEDS[kind].stop)):
        run(kind, seed)


@pytest.mark.parametrize(("kind", "seed"), [(kind, seed) for kind, seed, _ in FOUND])
def test_what_was_found_once(kind: Kind, seed: int) -> None:
    """None of the programs that found a fault finds one now; and each has still something in which to find it."""
    checker = run(kind, seed).checker
    assert not checker.faults
    assert checker.pushed
    assert sum(checker.counts.values()) >= len(checker.final) > 0


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_is_the_same_program(kind: Kind) -> None:
    for seed in range(3):
        first, second = run(kind, seed), run(kind, seed)
        told = [
            [line for line in each.checker.history if "storages opened" not in line] for each in (first, second)
        ]  # its path
        assert told[0] == told[1], seed


@pytest.mark.parametrize("kind", KINDS)
def test_programs_bring_about_what_they_are_there_for(kind: Kind) -> None:
    """A checker that cannot find a fault proves nothing."""
    missing = {field.name for field in fields(Faults) if not field.name.endswith("_seconds")}
    missing |= {"Succeeded", "Retried", "Failed", "Killed", "Released", "Suspended"}
    missing |= {"told that a lease was lost", "claimed again before it was settled", "killed at a deadline"}
    missing |= {"a key at its limit", "an attempt that has waited for a rate"}
    missing |= {"a call that returned", "a call that was cancelled", "a call that was cancelled under its attempt"}
    missing |= {"cancel_all", "retry_all", "discard_all", "vacuum", "changed several by ids"}
    for seed in range(100):
        checker = run(kind, seed).checker
        missing -= {
            *(what for what, number in checker.seen.items() if number),
            *(outcome.__name__ for outcome in checker.counts),
        }
        if not missing:
            return
    raise AssertionError(f"no program has seen {missing}")
