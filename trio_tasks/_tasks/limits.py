"""Limits of a queue and of the keys in it: how many attempts run at once, and how many begin within a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, final

from .._checks import check_count, check_name, check_seconds
from .._printing import quoted

LEAST_WEIGHT, MOST_WEIGHT = 0.001, 1000.0
_LEAST_PER = 0.001
"""Seconds. Begun attempts are counted in hundredths of a rate's time, which clocks must be able to tell apart."""


@final
@dataclass(frozen=True, slots=True)
class Rate:
    """At most ``n`` attempts that begin within any ``per`` seconds.

    >>> Rate(100, per=60)
    Rate(100, per=60.0)

    Args:
      n: the number of attempts, 1 or more; each attempt at a task counts, retries too.
      per: the length of the time, in seconds; 0.001 or more. Wherever a time of that length begins, no more than ``n``
          attempts begin within it. To keep that with little memory, a place may be free up to 1 % of ``per`` late.
    """

    n: int
    per: float = field(kw_only=True)

    def __post_init__(self) -> None:
        check_count(self.n, "n")
        object.__setattr__(self, "per", check_seconds(self.per, "per", positive=True))
        if self.per < _LEAST_PER:
            raise ValueError(f"per must be {_LEAST_PER} seconds or more, not {self.per}")

    def __repr__(self) -> str:
        return f"Rate({self.n}, per={self.per})"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits of a queue, or of one key in it. They hold over all workers and processes, and no slot waits for them.

    >>> Limits(concurrency=50, per_key=2, rate=Rate(100, per=60))
    Limits(concurrency=50, per_key=2, rate=Rate(100, per=60.0))

    Args:
      concurrency: the number of attempts of the queue that run at the same time; None: no limit.
      per_key: the same for the attempts of each key. Tasks without a key have no such limit.
      rate: the number of attempts of the queue that begin within a time; None: no limit.
      rate_per_key: the same for the attempts of each key. Tasks without a key have no such limit.
      weight: the share of a key beside others, from 0.001 to 1000: a key with weight 2 has two turns while a key with
          weight 1 has one.

    An attempt counts as running from its claim until it is settled, or its lease is lost. A task that waits to be tried
    again, or is suspended, does not.
    """

    concurrency: int | None = None
    per_key: int | None = None
    rate: Rate | None = None
    rate_per_key: Rate | None = None
    weight: float = 1.0

    def __post_init__(self) -> None:
        for name in ("concurrency", "per_key"):
            if getattr(self, name) is not None:
                check_count(getattr(self, name), name)
        for name in ("rate", "rate_per_key"):
            rate = getattr(self, name)
            if rate is not None and type(rate) is not Rate:
                raise TypeError(f"{name} must be a Rate, such as Rate(100, per=60), or None, not {quoted(rate)}")
        object.__setattr__(self, "weight", _check_weight(self.weight))

    def to_plain(self) -> dict[str, Any]:
        """Return the fields that differ from their defaults, as values that every codec takes."""
        plain: dict[str, Any] = {}
        for name, value in _fields_of(self).items():
            plain[name] = [value.n, value.per] if isinstance(value, Rate) else value
        return plain

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Limits:
        """Return the limits that :meth:`to_plain` has given.

        Raises:
          TypeError or ValueError: these are none.
        """
        given = dict(plain)
        for name in ("rate", "rate_per_key"):
            if name in given:
                n, per = given[name]
                given[name] = Rate(n, per=per)
        return cls(**given)

    def __repr__(self) -> str:
        return f"Limits({', '.join(f'{name}={value!r}' for name, value in _fields_of(self).items())})"


def _fields_of(limits: Limits) -> dict[str, Any]:
    """Return the fields that differ from their defaults."""
    values = {each: getattr(limits, each.name) for each in fields(limits)}
    return {each.name: value for each, value in values.items() if value != each.default}


def _check_weight(weight: object) -> float:
    if isinstance(weight, bool) or not isinstance(weight, (int, float)):
        raise TypeError(f"weight must be a number, not {quoted(weight)}")
    if not LEAST_WEIGHT <= weight <= MOST_WEIGHT:  # NaN is refused here too
        raise ValueError(f"weight must be from {LEAST_WEIGHT} to {MOST_WEIGHT:g}, not {quoted(weight)}")
    return float(weight)


def check_key(key: str | None) -> str | None:
    """Check the key for which limits are set or asked for; None: the queue."""
    return None if key is None else check_name(key, "key")


def check_limits(limits: object, *, of_key: bool = False) -> Limits | None:
    """Check the limits of a queue or, with ``of_key``, of one key."""
    if limits is not None and not isinstance(limits, Limits):
        raise TypeError(f"limits must be Limits, such as Limits(per_key=2), or None, not {quoted(limits)}")
    if of_key and limits is not None and (limits.concurrency is not None or limits.rate is not None):
        wrong, right = ("concurrency", "per_key") if limits.concurrency is not None else ("rate", "rate_per_key")
        raise ValueError(f"{wrong} is a limit of a whole queue; for one key give {right}")
    return limits
