"""Tests of Extensions and Metadata."""

from __future__ import annotations

from typing import Any

import pytest
from trio_tasks._tasks.extensions import NO_METADATA, Extensions, Metadata


class Tracer:
    pass


class LoudTracer(Tracer):
    pass


def test_a_value_is_found_by_its_type() -> None:
    tracer = Tracer()
    extensions = Extensions(tracer, 3.5)
    assert extensions[Tracer] is tracer
    assert extensions.get(float) == 3.5
    assert Tracer in extensions
    assert list(extensions) == [tracer, 3.5]
    assert len(extensions) == 2


def test_a_value_is_found_under_its_bases_but_its_own_class_goes_first() -> None:
    quiet, loud = Tracer(), LoudTracer()
    assert Extensions(loud)[Tracer] is loud
    assert Extensions(loud, quiet)[Tracer] is quiet
    assert Extensions(quiet).get(LoudTracer) is None
    assert LoudTracer not in Extensions(quiet)


def test_a_later_value_of_the_very_class_replaces_an_earlier_one() -> None:
    first, second, loud = Tracer(), Tracer(), LoudTracer()
    extensions = Extensions(first, loud)
    extensions.insert(second)
    assert extensions[Tracer] is second
    assert extensions[LoudTracer] is loud


@pytest.mark.parametrize("falsy", [0, "", False, ()])
def test_falsy_values_count(falsy: object) -> None:
    extensions = Extensions(falsy)
    assert extensions
    assert type(falsy) in extensions
    assert extensions[type(falsy)] is falsy


def test_what_is_missing_is_named_and_so_is_what_is_there() -> None:
    with pytest.raises(KeyError, match="no Tracer among these extensions, which hold int, str"):
        Extensions(5, "text")[Tracer]
    with pytest.raises(KeyError, match="no Tracer among these extensions, which hold nothing"):
        Extensions()[Tracer]
    assert Extensions().get(Tracer) is None


def test_extensions_have_a_repr_for_people() -> None:
    assert repr(Extensions(5, "text")) == "Extensions(5, 'text')"


def test_metadata_is_a_mapping() -> None:
    metadata = Metadata({"tenant": "acme", "level": 1}, level=2)
    assert metadata["tenant"] == "acme"
    assert dict(metadata) == {"tenant": "acme", "level": 2}
    assert metadata == {"tenant": "acme", "level": 2}
    assert len(metadata) == 2
    assert metadata.get("missing") is None
    assert repr(metadata) == "Metadata({'tenant': <str>, 'level': <int>})"


def test_any_name_may_be_a_keyword_of_metadata() -> None:
    assert Metadata(values=1, self=2) == {"values": 1, "self": 2}


def test_metadata_does_not_change() -> None:
    source = {"tenant": "acme"}
    metadata: Any = Metadata(source)
    source["tenant"] = "other"
    assert metadata["tenant"] == "acme"
    with pytest.raises(TypeError, match="does not support item assignment"):
        metadata["tenant"] = "other"
    assert len(NO_METADATA) == 0


@pytest.mark.parametrize("name", [5, None, b"tenant"])
def test_names_in_metadata_must_be_strings(name: object) -> None:
    with pytest.raises(TypeError, match=f"^names in metadata must be strings, not {name!r}$"):
        Metadata({name: "acme"})  # type: ignore[dict-item]  # this is the point


def test_what_is_missing_in_metadata_is_a_key_error() -> None:
    with pytest.raises(KeyError, match="missing"):
        Metadata()["missing"]
