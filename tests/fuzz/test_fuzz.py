"""Tests that fuzz for a few seconds, and with the seeds that have found faults."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from random import Random
from typing import Any

import pytest

from tests._scale import seeds
from tests.fuzz._codecs import read_or_refuse
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


def failure(target: str, trial: Callable[[Random], None], seeds: Iterable[int]) -> str | None:
    """The command that repeats the first trial that fails, with its error; None if all are well."""
    for seed in seeds:
        try:
            trial(Random(seed))
        except Exception as error:
            return f"python -m tests.fuzz --target {target} --seed {seed} --seeds 1: {error!r}"
    return None


@pytest.mark.parametrize("target", TARGETS)
def test_spoiled_bytes_are_read_or_refused(target: str) -> None:
    """A target raises nothing: it asserts that its reader gives a value, or raises the errors that it documents."""
    assert failure(target, TARGETS[target], seeds(SEEDS[target])) is None


def test_a_reader_that_raises_another_error_is_found() -> None:
    def trial(random: Random) -> None:
        if random.random() < 0.1:
            raise ZeroDivisionError("a reader's own fault")

    first = next(seed for seed in range(1000) if Random(seed).random() < 0.1)
    expected = f'--seed {first} --seeds 1: ZeroDivisionError("a reader\'s own fault")'
    assert str(failure("cbor", trial, range(1000))).endswith(expected)
    for codec in (UncheckedJson(), LossyCodec()):
        with pytest.raises((ValueError, AssertionError)):
            read_or_refuse(codec, b"}1.5")
            read_or_refuse(codec, b"1.5")


class UncheckedJson:
    """A codec that lets errors out that are no DecodeError."""

    def encode(self, value: Any) -> bytes:
        return json.dumps(value).encode()

    def decode(self, payload: bytes) -> Any:
        return json.loads(payload)


class LossyCodec:
    """A codec that reads something else than it wrote."""

    def encode(self, value: Any) -> bytes:
        return b"lost"

    def decode(self, payload: bytes) -> Any:
        return payload
