"""A few seconds of what ``python -m tests.fuzz`` does for hours, and the seeds that have found something."""

from __future__ import annotations

from random import Random

import pytest

from tests.fuzz._targets import TARGETS

pytestmark = pytest.mark.searching

SEEDS = {
    "cbor": 1500,
    "json": 1500,
    "record": 1000,
    "journal": 60,
    "entries": 40,
    "rows": 20,
    "tables": 20,
    "file": 30,
    "bell": 40,
    "lock": 30,
}


@pytest.mark.parametrize("target", TARGETS)
def test_spoiled_bytes_are_read_or_refused(target: str) -> None:
    for seed in range(SEEDS[target]):
        try:
            TARGETS[target](Random(seed))
        except Exception as error:
            raise AssertionError(
                f"python -m tests.fuzz --target {target} --seed {seed} --seeds 1: {error!r}"
            ) from error
