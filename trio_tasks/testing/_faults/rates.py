"""The rates and durations of the faults of a :class:`FaultyBackend`, and its records of them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal, cast, final

from ..._checks import check_fraction, check_seconds

if TYPE_CHECKING:
    from ..._tasks.task_id import TaskId

FaultKind = Literal[
    "drop",
    "duplicate",
    "delay",
    "reorder",
    "fail_before",
    "fail_after",
    "die",
    "stall",
    "disconnect",
    "jump",
    "refused",
    "lost",
]
"""The faults that :class:`Faults` has a rate for; and two that follow from them: an operation is ``refused`` while the
connection is down, and so is a settle by a receiver that has died; a claim is ``lost`` if there are no leases."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """The rate of each fault, as a probability from 0 to 1, and its duration, as ``(from, to)`` in seconds.

    >>> Faults(drop=0.1, stall=0.05, stall_seconds=(0, 20))

    Raises:
      TypeError, ValueError: a rate is not from 0 to 1, or a range is none; the message says which.
    """

    drop: float = 0.0
    """Of deliveries: the claim is made, and no receiver gets it. It comes back with its lease."""
    duplicate: float = 0.0
    """Of deliveries: the same claim is handed out twice. One of the two can be settled."""
    delay: float = 0.0
    """Of deliveries: the claim is made, and handed over ``delay_seconds`` later, to the receiver at that time."""
    reorder: float = 0.0
    """Of deliveries: the claim is made, and handed over after the next one (or ``delay_seconds`` later)."""
    fail_before: float = 0.0
    """Of settles: it fails, and nothing was stored."""
    fail_after: float = 0.0
    """Of settles: it fails, though the outcome was stored."""
    die: float = 0.0
    """Of settles: the receiver has died. This settle fails, and so does that of each other task which was delivered
    before; they come back with their leases."""
    stall: float = 0.0
    """Of operations: it begins ``stall_seconds`` late; a settle may also end as late."""
    disconnect: float = 0.0
    """Of operations: the connection is down from now on, for ``outage_seconds``: this one fails, a receive that waits
    fails, and all others fail until it is over."""
    jump: float = 0.0
    """Of operations: trio's clock, a ``MockClock``, moves on by ``jump_seconds``, as if the machine had slept."""
    delay_seconds: tuple[float, float] = (0.1, 3.0)
    stall_seconds: tuple[float, float] = (0.1, 3.0)
    outage_seconds: tuple[float, float] = (0.1, 3.0)
    jump_seconds: tuple[float, float] = (1.0, 60.0)
    absence_seconds: tuple[float, float] = (1.0, 30.0)
    """After how long comes back what would come back with its lease, if the backend has no leases; more than 0."""

    def __post_init__(self) -> None:
        for field in fields(self):
            name = f"Faults.{field.name}"
            if field.name.endswith("_seconds"):
                check_range(getattr(self, field.name), name, positive=field.name == "absence_seconds")
            else:
                check_fraction(getattr(self, field.name), name)

    @classmethod
    def none(cls) -> Faults:
        """Rates without any faults."""
        return cls()

    @classmethod
    def unordered(cls) -> Faults:
        """Rates of late, reordered and duplicate deliveries, without losses and failures."""
        return cls(duplicate=0.1, delay=0.2, reorder=0.2)

    @classmethod
    def rough(cls) -> Faults:
        """Low rates of all faults, except jumps of the clock, which need a ``MockClock``."""
        return cls(
            drop=0.03,
            duplicate=0.05,
            delay=0.1,
            reorder=0.1,
            fail_before=0.02,
            fail_after=0.02,
            die=0.01,
            stall=0.05,
            disconnect=0.01,
        )


def check_range(value: object, name: str, *, positive: bool = False) -> None:
    """Check a range of seconds: a pair, the shorter time first."""
    pair = cast("tuple[object, ...]", value) if isinstance(value, tuple) else ()
    if len(pair) != 2:
        raise TypeError(f"{name} must be a pair of seconds, such as (0.1, 3.0), not {value!r}")
    shortest, longest = (check_seconds(each, f"each of {name}", positive=positive) for each in pair)
    if longest < shortest:
        raise ValueError(f"{name} must have the shorter time first, not {value!r}")


@final
@dataclass(frozen=True, slots=True)
class Fault:
    """One fault that a :class:`FaultyBackend` injected."""

    at: float
    """Seconds on trio's clock."""
    kind: FaultKind
    operation: str
    """The operation: ``"receive"``, ``"settle"``, ``"beat"``, ``"push_task"``."""
    task_id: TaskId | None = None
    attempt: int | None = None
    seconds: float | None = None
    """For how long; None if that says nothing here."""

    def __str__(self) -> str:
        task = "" if self.task_id is None else f", task {self.task_id} in attempt {self.attempt}"
        seconds = "" if self.seconds is None else f", for {self.seconds:.3f} s"
        return f"{self.at:10.3f} {self.kind} ({self.operation}){task}{seconds}"
