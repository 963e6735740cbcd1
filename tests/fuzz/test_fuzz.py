"""A few seconds of what ``python -m tests.fuzz`` does for hours, and the seeds that have found something."""

from __future__ import annotations

from random import Random

import pytest

from tests._scale import seeds
from tests.fuzz._targets import TARGETS

pytestmark = [pytest.mark.searching, pytest.mark.nightly]

SEEDS = {
    "cbor": 15_000,
    "json": 15_000,
    "record": 10_000,
    "journal": 600,
    "entries": 400,
    "rows": 200,
    "tables": 200,
    "file": 300,
    "bell": 400,
    "lock": 300,
}
"""At night; a twentieth of them every time."""


@pytest.mark.parametrize("target", TARGETS)
def test_spoiled_bytes_are_read_or_refused(target: str) -> None:
    for seed in seeds(SEEDS[target]):
        try:
            TARGETS[target](Random(seed))
        except Exception as error:
            raise AssertionError(
                f"python -m tests.fuzz --target {target} --seed {seed} --seeds 1: {error!r}"
            ) from error
