"""Functions for exception groups, nested to any depth, and for errors with unusual classes."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from typing_extensions import TypeIs

E = TypeVar("E", bound=BaseException)


def is_a(error: BaseException, kind: type[E]) -> TypeIs[E]:
    """Do as ``isinstance`` does, by ``type(error)`` alone: ``__class__`` may lie, or raise."""
    return issubclass(type(error), kind)


def attribute_of(error: BaseException, name: str) -> Any:
    """Return a built-in attribute of an exception, even if its class hides it behind a property."""
    return vars(BaseException)[name].__get__(error)


def members_of(group: BaseExceptionGroup[Any]) -> tuple[BaseException, ...]:
    """Return the members of a group, even if its class hides them."""
    members: tuple[BaseException, ...] = vars(BaseExceptionGroup)["exceptions"].__get__(group)
    return members


def leaves(error: BaseException) -> Iterator[BaseException]:
    """Return all errors in a group and its inner groups; the error itself if it is no group."""
    unseen = [error]
    while unseen:
        each = unseen.pop()
        if is_a(each, BaseExceptionGroup):
            unseen += reversed(members_of(each))
        else:
            yield each


def within(error: BaseException) -> Iterator[BaseException]:
    """Return the error, the members of its group, and their causes and contexts, each once."""
    seen: set[int] = set()
    unseen = [error]
    while unseen:
        each = unseen.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        behind = attribute_of(each, "__context__"), attribute_of(each, "__cause__")
        unseen += [error for error in behind if error is not None]
        if is_a(each, BaseExceptionGroup):
            unseen += members_of(each)


def find_within(error: BaseException, kind: type[E]) -> E | None:
    """Return the first error of this kind among the error, the members of its group, and their causes and contexts."""
    return next((each for each in within(error) if is_a(each, kind)), None)


@contextmanager
def unnested() -> Generator[None, None, None]:
    """Raise the inner group if the block raises a group whose only member is a group."""
    try:
        yield
    except BaseExceptionGroup as group:
        outer: Any = group  # mypy and pyright do not agree about the type of its members
        inner: Any = group
        while len(members_of(inner)) == 1 and is_a(members_of(inner)[0], BaseExceptionGroup):
            [inner] = members_of(inner)
        if inner is outer:
            raise
        raise inner from None  # noqa: ASYNC123  what surrounds it says no more
