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
    """As ``isinstance``, but an error that lies about its class, or fails when asked, is not asked."""
    return issubclass(type(error), kind)


def leaves(error: BaseException) -> Iterator[BaseException]:
    """The errors that a group holds, however deeply it is nested; the error itself if it is no group."""
    unseen = [error]
    while unseen:
        each = unseen.pop()
        if is_a(each, BaseExceptionGroup):
            unseen += reversed(each.exceptions)
        else:
            yield each


def find_within(error: BaseException, kind: type[E]) -> E | None:
    """An error of this kind: the error itself, one in its group, or one behind it (its cause, or its context)."""
    seen: set[int] = set()
    unseen = [error]
    while unseen:
        each = unseen.pop()
        if is_a(each, kind):
            return each
        if id(each) in seen:
            continue
        seen.add(id(each))
        unseen += [behind for behind in (each.__context__, each.__cause__) if behind is not None]
        if is_a(each, BaseExceptionGroup):
            unseen += each.exceptions
    return None


@contextmanager
def unnested() -> Generator[None, None, None]:
    """A group that holds nothing but another group says no more than that one does."""
    try:
        yield
    except BaseExceptionGroup as group:
        outer: Any = group  # of what, mypy and pyright do not agree
        inner: Any = group
        while len(inner.exceptions) == 1 and is_a(inner.exceptions[0], BaseExceptionGroup):
            inner = inner.exceptions[0]
        if inner is outer:
            raise
        raise inner from None  # noqa: ASYNC123  what surrounds it says no more
