"""That each mutation still is one: what it replaces is there, once, and Python can read what comes of it."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest

from tests.mutations._broken import MUTATIONS, Mutation
from tests.mutations._trial import ROOT, broken


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_mutation_changes_the_source_in_one_place(mutation: Mutation) -> None:
    source = Path(ROOT, "trio_tasks", mutation.file).read_text("utf-8")
    changed = broken(source, mutation)
    assert changed != source
    ast.parse(changed)


def test_every_promise_has_a_mutation() -> None:
    assert {each.promise for each in MUTATIONS} == set(range(1, 13))
    assert not [name for name, times in Counter(each.name for each in MUTATIONS).items() if times > 1]
