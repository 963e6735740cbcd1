"""Tests of the functions for nested exception groups."""

from __future__ import annotations

import sys

import pytest
from trio_tasks._concurrency.exception_groups import find_within, leaves, unnested

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup, ExceptionGroup


def group(*errors: Exception) -> ExceptionGroup[Exception]:
    return ExceptionGroup("several", errors)


def raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    """The error, as it is after it was raised from this cause."""
    try:
        raise error from cause
    except type(error) as caught:
        return caught


# Leaves


def test_an_error_is_its_own_leaf() -> None:
    error = ValueError()
    assert list(leaves(error)) == [error]


def test_the_leaves_of_groups_in_groups() -> None:
    one, two, three = ValueError(), KeyError(), KeyboardInterrupt()
    nested = BaseExceptionGroup("outer", [one, BaseExceptionGroup("inner", [group(two), three])])
    assert list(leaves(nested)) == [one, two, three]


def test_the_leaf_of_a_very_deep_group() -> None:
    error: Exception = (leaf := ValueError())
    for _ in range(5 * sys.getrecursionlimit()):
        error = group(error)
    assert list(leaves(error)) == [leaf]


# Within


def test_an_error_is_found_wherever_it_is() -> None:
    wanted = KeyError("wanted")
    behind = raised(ValueError(), cause=wanted)
    assert isinstance(behind, ValueError)
    for error in (wanted, group(OSError(), wanted), behind, group(OSError(), group(behind))):
        assert find_within(error, KeyError) is wanted
    assert find_within(behind, OSError) is None


def test_an_error_is_found_though_another_was_raised_while_it_was_handled() -> None:
    wanted = KeyError("wanted")
    with pytest.raises(ValueError, match="of the clean-up") as caught:
        try:
            raise wanted
        finally:
            raise ValueError("of the clean-up")
    assert find_within(caught.value, KeyError) is wanted


def test_errors_behind_one_another_in_a_circle_do_no_harm() -> None:
    one, other = ValueError(), KeyError()
    one.__cause__, other.__cause__ = other, one
    assert find_within(one, OSError) is None
    assert find_within(one, KeyError) is other


# Unnested


def test_groups_around_a_group_fall_away() -> None:
    inner = group(ValueError("a"), KeyError("b"))
    with pytest.RaisesGroup(ValueError, KeyError) as caught, unnested():
        raise group(group(inner))
    assert caught.value is inner
    assert caught.value.__cause__ is None


def test_a_group_that_says_something_stays() -> None:
    one, several = group(ValueError()), group(group(ValueError()), OSError())
    with pytest.RaisesGroup(ValueError) as caught, unnested():
        raise one
    assert caught.value is one
    with pytest.RaisesGroup(pytest.RaisesGroup(ValueError), OSError) as both, unnested():
        raise several
    assert both.value is several


def test_what_is_no_group_passes() -> None:
    with pytest.raises(KeyError), unnested():
        raise KeyError("no group")
    with unnested():
        pass
