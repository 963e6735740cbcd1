"""Groups of errors: what is in them, however deeply they are nested."""

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
    """Do what ``isinstance`` does, but an error that lies about its class, or fails when asked, is not asked."""
    return issubclass(type(error), kind)


def attribute_of(error: BaseException, name: str) -> Any:
    """An attribute that every exception has, also of one whose class hides it behind a property."""
    return vars(BaseException)[name].__get__(error)


def members_of(group: BaseExceptionGroup[Any]) -> tuple[BaseException, ...]:
    """The errors of a group, also of one whose class hides them."""
    members: tuple[BaseException, ...] = vars(BaseExceptionGroup)["exceptions"].__get__(group)
    return members


def leaves(error: BaseException) -> Iterator[BaseException]:
    """The errors that a group holds, however deeply it is nested; the error itself if it is no group."""
    unseen = [error]
    while unseen:
        each = unseen.pop()
        if is_a(each, BaseExceptionGroup):
            unseen += reversed(members_of(each))
        else:
            yield each


def within(error: BaseException) -> Iterator[BaseException]:
    """The error itself, those in its group, and those behind them (their causes and contexts), each once."""
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
    """An error of this kind: the error itself, one in its group, or one behind it (its cause, or its context)."""
    return next((each for each in within(error) if is_a(each, kind)), None)


@contextmanager
def unnested() -> Generator[None, None, None]:
    """Raise the inner group in place of a group that holds nothing else."""
    try:
        yield
    except BaseExceptionGroup as group:
        outer: Any = group  # of what, mypy and pyright do not agree
        inner: Any = group
        while len(members_of(inner)) == 1 and is_a(members_of(inner)[0], BaseExceptionGroup):
            [inner] = members_of(inner)
        if inner is outer:
            raise
        raise inner from None  # noqa: ASYNC123  what surrounds it says no more
