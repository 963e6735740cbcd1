"""Some layers call a function and want its answer at once, so an async one is refused when the layer is built."""

from __future__ import annotations

import inspect
from typing import TypeVar

from .._checks import check_callable

T = TypeVar("T")


def check_plain(value: T, name: str, shape: str) -> T:
    """Something that can be called, and gives its answer without being awaited."""
    check_callable(value, name, shape)
    if inspect.iscoroutinefunction(value) or inspect.iscoroutinefunction(getattr(value, "__call__", None)):  # noqa: B004  its kind is asked about, not whether it is there
        raise TypeError(f"{name} must be a plain function, since nobody awaits it; {value!r} is async")
    return value
