"""The schedules of a store: put, pause and list them, and run the scheduler that fires them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast, final, get_args
from unicodedata import category

import trio

from .._checks import check_count, check_name, check_seconds, check_sync
from .._clock import moment_after
from .._concurrency.virtual_time import epoch_clock
from .._contracts.backend import StoreSchedules
from .._contracts.schedules import MissedPolicy, OverlapPolicy, ScheduleChange, StoredSchedule
from .._logging import log
from .._printing import escaped, quoted
from .._tasks.errors import BackendError
from .._tasks.task import TaskOptions, make_task
from .cron import CronSpec, spec_of
from .schedule import LONGEST, METADATA, IntervalSpec, in_zone, zone_of
from .scheduler import Scheduler, firing_task, pause_after

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from typing_extensions import Unpack

    from .._clock import EpochClock
    from .._contracts.schedules import ScheduleEntry
    from .._tasks.task import Task
    from .._tasks.task_id import TaskId

_CHANGED_AT_ONCE = 500
_TRIES = 100
_LARGEST_LIMIT = 10_000


@final
@dataclass(frozen=True, slots=True)
class ScheduleInfo:
    """A schedule of a store, as it is now.

    Args:
      name: its name.
      spec: its times, as text, such as ``cron('0 9 * * MON', zone='UTC')``.
      queue: the queue to which its tasks are pushed.
      next: its next time; None if it is paused, if there is none, or if its calendar is not known here.
      previous: the time that was fired last; None if none was.
      is_paused: True if it is paused.
      is_orphaned: True if it was stored by a program in whose code it stood, and is fired by none: the code of a
        scheduler that was started later lacks it, and none runs, or has run within 10 minutes, that has it. It is not
        orphaned if it stands in this program's code.
      is_dynamic: True if it was put at run time.
    """

    name: str
    spec: str
    queue: str
    next: datetime | None
    previous: datetime | None
    is_paused: bool
    is_orphaned: bool
    is_dynamic: bool


class ScheduleOptions(TaskOptions, total=False):
    """The keyword options of a schedule: its own, and those of the tasks that it pushes.

    The docstring of :meth:`Schedules.put` describes its own, that of ``push`` those of the tasks.
    """

    missed: MissedPolicy
    within: float | None
    limit: int
    overlap: OverlapPolicy
    jitter: float


_NOT_TAKEN = frozenset({"id", "delay", "run_at", "data"})
_SETTINGS = ScheduleOptions.__optional_keys__ - TaskOptions.__optional_keys__


@final
@dataclass(frozen=True)
class Definition:
    """A schedule as it was defined, before its task is encoded for a storage."""

    times: CronSpec | IntervalSpec
    queue: str
    task: Task[Any]
    missed: MissedPolicy
    within: float | None
    limit: int
    overlap: OverlapPolicy
    jitter: float

    def stored(self, template: Any, done: int, *, is_dynamic: bool) -> StoredSchedule:
        """Return the schedule to store, which has been fired up to a moment."""
        more = self.missed, self.within, self.limit, self.overlap, self.jitter
        return StoredSchedule(str(self.times), self.queue, template, done, None, *more, is_dynamic=is_dynamic)


@final
class Schedules:
    """The schedules of a store.

    >>> schedules = Schedules(storage)
    >>> await schedules.put("report-42", Report(42), cron("0 9 * * MON", zone="UTC"))
    >>> async with trio.open_nursery() as nursery:
    ...     nursery.start_soon(schedules.run)  # beside the workers, in each process

    A schedule is stored with the task that it pushes, and with the time up to which it was fired. Each process may
    call :meth:`run`: a time is fired once over all of them, also if some are killed.

    Args:
      storages: a storage, or several queues of one store. The schedules push to these.
      queue_of: a function that is given the args of a schedule, and returns the name of their queue, where none is
          given. Default: the first of the storages.

    Raises:
      TypeError: one of them cannot store schedules.
    """

    def __init__(self, *storages: Any, queue_of: Callable[[Any], str] | None = None) -> None:
        if not storages:
            raise TypeError("Schedules takes a storage, or several queues of one")
        self._storages: dict[str, StoreSchedules] = {}
        for each in storages:
            if not isinstance(each, StoreSchedules):
                raise TypeError(f"Schedules takes storages that can store schedules, not {quoted(each)}")
            queue = str(getattr(each, "queue", "default"))
            if queue in self._storages:
                raise ValueError(f"two of the storages are queue {quoted(queue)}")
            self._storages[queue] = each
        self._store = next(iter(self._storages.values()))
        self._queue_of = queue_of if queue_of is None else check_sync(queue_of, "queue_of", "queue_of(args) -> str")
        self._declared: dict[str, Definition] = {}
        self._missed: Counter[str] = Counter()
        self._clock: trio.abc.Clock | None = None  # of the trio run in which it was last used
        self._epoch: EpochClock

    # Defining

    def declare(
        self,
        name: str,
        args: Any,
        times: CronSpec | IntervalSpec,
        *,
        queue: str | None = None,
        **options: Unpack[ScheduleOptions],
    ) -> None:
        """Declare a schedule of the code, which :meth:`run` stores. The arguments are those of :meth:`put`.

        One that is declared nowhere any more stays stored, is not fired, and is listed as orphaned once a scheduler of
        its queue has started whose code lacks it, until :meth:`prune`. If two versions of a program declare it
        differently, the one that was started last wins. The times may have a calendar.
        """
        self.declare_all({name: self._definition(name, args, times, queue, options)})

    def declare_all(self, definitions: Mapping[str, Definition]) -> None:
        """Declare schedules of a router."""
        for name, definition in definitions.items():
            if name in self._declared:
                raise ValueError(f"schedule {quoted(name)} is declared already")
            self._declared[name] = definition

    async def put(
        self,
        name: str,
        args: Any,
        times: CronSpec | IntervalSpec,
        *,
        queue: str | None = None,
        **options: Unpack[ScheduleOptions],
    ) -> None:
        """Store a schedule, or change the one of this name. Schedulers in all processes notice within a second.

        It is fired from now on. If it is changed, its pause and the time that was fired last stay; times of before do
        not count as missed.

        Args:
          name: its name.
          args: the args of its tasks.
          times: what :func:`cron` or :func:`every` returns, without a calendar: a function cannot be stored.
          queue: the name of the queue, one of those that this was given. Default: what ``queue_of`` returns, or the
              first one.
          missed: of the times that passed while no scheduler ran, ``"latest"`` fires the last one, ``"all"`` each of
            them, ``"skip"`` none that is more than a minute old. Default: ``"latest"``.
          within: the seconds after which a time is too old to be fired. Default: never.
          limit: the most tasks that ``missed="all"`` pushes at once: the last ones; 10,000 or less. Default: 100.
          overlap: ``"skip"`` pushes no task while one of this schedule is unfinished: the name is the unique key of its
            tasks. ``"allow"`` pushes it all the same. Default: ``"skip"``.
          jitter: the seconds over which tasks are spread: each waits for a part of it, which depends on the name and
            the time. Default: 0.
          options: the options of :meth:`TaskSink.push` for each task, such as ``attempts``.

        Raises:
          TypeError, ValueError: an argument is wrong.
        """
        definition = self._definition(name, args, times, queue, options)
        if spec_of(str(times)) is None:
            raise ValueError(f"{times} cannot be stored: a calendar is a function. Declare the schedule in the code")
        template = self._storages[definition.queue].make_template(definition.task)

        def put(known: StoredSchedule | None) -> StoredSchedule:
            new = definition.stored(template, self._now(), is_dynamic=True)
            return new if known is None else _edited(known, new)

        await self._change(name, put, replaces=True)

    def _definition(self, name: str, args: Any, times: Any, queue: Any, options: ScheduleOptions) -> Definition:
        if queue is None:
            queue = next(iter(self._storages)) if self._queue_of is None else self._queue_of(args)
        if not isinstance(queue, str) or queue not in self._storages:
            raise ValueError(f"queue must be one of {', '.join(map(repr, self._storages))}, not {quoted(queue)}")
        return define(name, args, times, queue, options)

    def _now(self) -> int:
        """Return the present time by the wall clock, in microseconds since the epoch."""
        clock = trio.lowlevel.current_clock()
        if self._clock is not clock:
            self._clock, self._epoch = clock, epoch_clock()
        return int(self._epoch.read() * 1e6)

    # Changing

    async def pause(self, name: str) -> bool:
        """Fire no time of a schedule until :meth:`resume`; False if there is none of this name.

        When it returns, no process fires it any more. Tasks that were pushed before are not affected.
        """
        return await self._change(name, lambda known: known and replace(known, is_paused=True))

    async def resume(self, name: str) -> bool:
        """Fire a schedule again, from now on: the times of the pause are passed over. False if there is none."""

        def resume(known: StoredSchedule | None) -> StoredSchedule | None:
            if known is None or not known.is_paused:
                return known
            return replace(known, is_paused=False, done=max(known.done, self._now()))

        return await self._change(name, resume)

    async def remove(self, name: str) -> bool:
        """Remove a schedule; False if there is none. One that is declared comes back when a scheduler starts."""
        return await self._change(name, lambda _: None, replaces=True)

    async def prune(self) -> list[str]:
        """Remove all orphaned schedules, and return their names. Any program may do so: the store knows which they are.

        If it is cancelled, some of them are removed.
        """
        removed: list[str] = []
        while changes := [
            ScheduleChange(entry.name, entry.revision, None)
            for entry in await self._store.list_schedules()
            if entry.schedule is not None and self._is_orphaned(entry.name, entry.schedule)
        ]:
            some = changes[:_CHANGED_AT_ONCE]
            results = await self._store.set_schedules(some)
            removed += [each.name for each, result in zip(some, results, strict=True) if result.revision]
        return sorted(removed)

    async def run_now(self, name: str) -> TaskId | None:
        """Push a task of a schedule now, whether it is paused or not; its times stay as they are.

        Returns:
          the id of the task; or, with ``overlap="skip"``, that of an unfinished one. None if there is no such schedule.

        Raises:
          ValueError: its queue is not one of those that this was given.
        """
        _check_schedule_name(name)
        for _ in range(_TRIES):
            entry = await self._find(name)
            if entry is None or (schedule := entry.schedule) is None:
                return None
            if schedule.queue not in self._storages:
                raise ValueError(f"schedule {quoted(name)} pushes to queue {quoted(schedule.queue)}, which is not here")
            now = self._now()
            spec = self._spec_of(name, schedule)
            task = firing_task(name, replace(schedule, jitter=0.0), "UTC" if spec is None else spec.zone, now, now)
            change = ScheduleChange(name, entry.revision, schedule, [task])
            [result] = await self._storages[schedule.queue].set_schedules([change])
            if result.revision:
                return result.ids[0]
        raise _contended(name)

    async def _change(
        self,
        name: str,
        change: Callable[[StoredSchedule | None], StoredSchedule | None],
        *,
        replaces: bool = False,
    ) -> bool:
        """Change a schedule; False if there was none, and is none now. Again, if another process changes it as well.

        One that cannot be read is left alone, unless the change replaces it.
        """
        _check_schedule_name(name)
        for _ in range(_TRIES):
            entry = await self._find(name)
            known = None if entry is None else entry.schedule
            was = 0 if entry is None or entry.is_removed else entry.revision
            if was and known is None and not replaces:
                return False
            new = change(known)
            if new == known and (known is not None or not was):
                return known is not None
            [result] = await self._store.set_schedules([ScheduleChange(name, was, new)])
            if result.revision:
                return True
        raise _contended(name)

    async def _find(self, name: str) -> ScheduleEntry | None:
        entries = await self._store.list_schedules(name=name)
        return entries[0] if entries else None

    # Looking

    async def list(self) -> list[ScheduleInfo]:
        """Return all schedules of the store, by name."""
        entries = await self._store.list_schedules()
        infos = [self._info(each.name, each.schedule) for each in entries if each.schedule is not None]
        return sorted(infos, key=lambda each: each.name)

    def _info(self, name: str, schedule: StoredSchedule) -> ScheduleInfo:
        spec = self._spec_of(name, schedule)
        following = None
        if spec is not None and not schedule.is_paused:
            following = spec.next_after(moment_after(max(schedule.done, self._now())))
        previous = None if schedule.fired is None else moment_after(schedule.fired)
        if previous is not None and spec is not None:
            previous = in_zone(previous, zone_of(spec.zone))
        states = schedule.is_paused, self._is_orphaned(name, schedule), schedule.is_dynamic
        return ScheduleInfo(name, schedule.times, schedule.queue, following, previous, *states)

    def _is_orphaned(self, name: str, schedule: StoredSchedule) -> bool:
        if schedule.is_dynamic or name in self._declared or schedule.orphaned_from is None:
            return False
        return schedule.orphaned_from <= self._now()

    def _spec_of(self, name: str, schedule: StoredSchedule) -> CronSpec | IntervalSpec | None:
        own = self._declared.get(name)
        return own.times if own is not None and str(own.times) == schedule.times else spec_of(schedule.times)

    @property
    def missed(self) -> dict[str, int]:
        """For each schedule, how many of its times :meth:`run` has passed over, in this process.

        Those are times that were found to have passed while no scheduler ran, and that ``missed``, ``within`` and
        ``limit`` do not fire any more; of one schedule, at most 100 at once are counted. The times of a pause are not
        among them. A time is passed over by one process, so the sum over all processes counts each once.
        """
        return dict(self._missed)

    # Running

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Store the declared schedules, and fire all schedules of the store until its queues are closed.

        It reports that it has started when they are stored. If it is cancelled, every time was either fired, or will
        be by another scheduler or the next one.

        Raises:
          BackendError: the store has failed for good.
        """
        entries = await self._store_declared()
        task_status.started()
        times = {name: each.times for name, each in self._declared.items()}
        scheduler = Scheduler(self._storages, times, self._now, self._missed)
        await scheduler.note_all(entries)
        del entries  # it may run for long
        await scheduler.run()

    async def _store_declared(self) -> Sequence[ScheduleEntry]:
        """Store the declared schedules; those that are stored so already stay as they are. Return all of before."""
        names = [*self._declared]
        while True:
            try:
                entries = [*await self._store.list_schedules()]
                known = {each.name: each for each in entries}
                lost: list[str] = []
                for start in range(0, len(names), _CHANGED_AT_ONCE):
                    lost += await self._store_some(names[start : start + _CHANGED_AT_ONCE], known)
            except BackendError as error:
                await pause_after(error)
                continue
            if not lost:
                return entries
            names = lost

    async def _store_some(self, names: Sequence[str], known: Mapping[str, ScheduleEntry]) -> Sequence[str]:
        """Store these schedules; return those that another process has changed at the same time."""
        now = self._now()
        changes = [*filter(None, (self._declared_change(name, known.get(name), now) for name in names))]
        await trio.lowlevel.checkpoint()
        results = await self._store.set_schedules(changes) if changes else ()
        return [each.name for each, result in zip(changes, results, strict=True) if not result.revision]

    def _declared_change(self, name: str, entry: ScheduleEntry | None, now: int) -> ScheduleChange | None:
        """Return the change that stores a declared schedule; None if it is stored so."""
        definition = self._declared[name]
        template = self._storages[definition.queue].make_template(definition.task)
        new = definition.stored(template, now, is_dynamic=False)
        stored = None if entry is None else entry.schedule
        if stored is not None:
            new = _edited(stored, new)
            if new == stored:
                return None
            if new.times != stored.times:
                log.info("schedule %s is now %s; it was %s", escaped(name), new.times, escaped(stored.times))
        return ScheduleChange(name, 0 if entry is None or entry.is_removed else entry.revision, new)

    def __repr__(self) -> str:
        return f"<Schedules of {', '.join(map(repr, self._storages.values()))}>"


def define(name: str, args: Any, times: Any, queue: str, options: ScheduleOptions) -> Definition:
    """Check all of a schedule, and return its definition.

    Raises:
      TypeError, ValueError: something is wrong.
    """
    _check_schedule_name(name)
    given: dict[str, Any] = {**options}
    checked = _settings(**{each: given.pop(each) for each in _SETTINGS if each in given})
    if not isinstance(times, (CronSpec, IntervalSpec)):
        raise TypeError(f"times must be what cron() or every() returns, not {quoted(times)}")
    taken = ScheduleOptions.__optional_keys__ - _NOT_TAKEN
    for option in options.keys() - ScheduleOptions.__optional_keys__:
        raise TypeError(f"a schedule has no option {quoted(option)}; it takes {', '.join(sorted(taken))}")
    for option in _NOT_TAKEN:
        if option in given:
            raise TypeError(f"a schedule has no {option}: it pushes many tasks, each at a time of its own")
    if checked["overlap"] == "skip" and "unique" in given:
        raise ValueError("a schedule with a unique key of its own needs overlap='allow'")
    task = make_task(args, cast("TaskOptions", given))
    if METADATA in task.parts.metadata:
        raise ValueError(f"the metadata {METADATA!r} of a schedule's task is its Firing")
    return Definition(times, queue, task, **checked)


def _check_schedule_name(name: object) -> None:
    checked = check_name(name, "the name of a schedule")
    if any(category(each) == "Cc" for each in checked):
        raise ValueError(f"the name of a schedule must have no control characters, as {quoted(checked)} has")


def _settings(
    missed: object = "latest",
    within: object = None,
    limit: object = 100,
    overlap: object = "skip",
    jitter: object = 0.0,
) -> dict[str, Any]:
    """Check the settings of a schedule."""
    if missed not in get_args(MissedPolicy):
        raise ValueError(f"missed must be one of {', '.join(map(repr, get_args(MissedPolicy)))}, not {quoted(missed)}")
    if overlap not in get_args(OverlapPolicy):
        raise ValueError(
            f"overlap must be one of {', '.join(map(repr, get_args(OverlapPolicy)))}, not {quoted(overlap)}"
        )
    if missed == "all" and overlap == "skip":
        raise ValueError("missed='all' needs overlap='allow': of tasks that may not overlap, the second is not pushed")
    return {
        "missed": missed,
        "within": None if within is None else _check_span(check_seconds(within, "within", positive=True), "within"),
        "limit": _check_limit(limit),
        "overlap": overlap,
        "jitter": _check_span(check_seconds(jitter, "jitter"), "jitter"),
    }


def _check_span(seconds: float, name: str) -> float:
    if seconds > LONGEST.total_seconds():
        raise ValueError(f"{name} must be 100 years or less, not {seconds!r} seconds")
    return seconds


def _check_limit(limit: object) -> int:
    if (checked := check_count(limit, "limit")) > _LARGEST_LIMIT:
        raise ValueError(f"limit must be {_LARGEST_LIMIT:,} or less, not {quoted(limit)}")
    return checked


def _edited(known: StoredSchedule, new: StoredSchedule) -> StoredSchedule:
    """Return the new schedule, with what stays of the one before: its pause, and how far it was fired."""
    done = known.done if known.times == new.times else max(known.done, new.done)
    return replace(new, done=done, fired=known.fired, is_paused=known.is_paused)


def _contended(name: str) -> RuntimeError:
    return RuntimeError(f"schedule {quoted(name)} is changed by others all the time")
