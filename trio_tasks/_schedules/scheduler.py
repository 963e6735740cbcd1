"""The scheduler, which fires the schedules of a store.

Each process may run one. All of them fire the same schedules, and each time is fired once: the step that pushes the
task also notes how far the schedule was fired, and is made only if nobody else has changed it. Schedules wait in a
heap, with one timer; the store is asked for changes when it tells of one, and once a second.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import replace
from datetime import timedelta
from hashlib import blake2b
from heapq import heappop, heappush
from itertools import islice, takewhile
from typing import TYPE_CHECKING, Any, final

import trio

from .._clock import microseconds_of, moment_after
from .._contracts.schedules import ScheduleChange, TaskTemplate
from .._logging import catch_errors, log
from .._printing import escaped
from .._tasks.errors import BackendError
from .._tasks.extensions import Metadata
from .cron import spec_of
from .schedule import firing_metadata, seconds_to_sleep

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from .._contracts.backend import StoreSchedules
    from .._contracts.schedules import ScheduleEntry, StoredSchedule
    from .cron import CronSpec
    from .schedule import IntervalSpec

LATE = 60.0
"""Seconds after which a time has been missed, for ``missed="skip"``."""
_AT_ONCE = 100
"""Schedules that are changed in one transaction."""
_COMPUTED_AT_ONCE = 10
"""Schedules whose times are computed without a checkpoint; after a long downtime, each takes milliseconds."""
_LOOKS_APART = 0.05
"""Seconds between two looks at the store, however often it tells of changes."""
_PAUSE = 1.0
"""Seconds after a failure of the store."""
_ERROR_PAUSE = 60 * 10**6
"""Microseconds after which times are computed again whose calendar has raised an error."""
_CLAIMED_FOR = 600 * 10**6
"""Microseconds for which a scheduler keeps its schedules from being orphaned, where another one's code lacks them."""
_MOST_COUNTED = 100
"""Missed times of a schedule that are counted at once."""
_LONGEST_GAP = 1800.0
"""Seconds without a look at the store after which removed schedules may have been forgotten there."""
_MICROSECOND = timedelta(microseconds=1)


def firing_task(name: str, schedule: StoredSchedule, zone: str, time: int, now: int) -> TaskTemplate:
    """Return the task to push for a time of a schedule; moments are microseconds since the epoch."""
    template, terms = schedule.template, schedule.template.terms
    delay = max(0.0, (time - now) / 1e6 + jitter_of(name, time, schedule.jitter)) if schedule.jitter else terms.delay
    if terms.expires_in is not None:
        terms = replace(terms, expires_in=terms.expires_in + delay)
    if isinstance(terms.deadline, float):
        terms = replace(terms, deadline=terms.deadline + delay)
    if schedule.overlap == "skip":
        terms = replace(terms, unique=name, on_conflict="skip", unique_until="end", unique_for=None)
    metadata = {**template.metadata, **firing_metadata(name, zone, time, schedule.fired)}
    return replace(template, terms=replace(terms, delay=delay), metadata=Metadata(metadata))


def jitter_of(name: str, time: int, seconds: float) -> float:
    """Return the delay of a firing, from 0 to this many seconds: the same in all processes."""
    digest = blake2b(f"{name} {time}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64 * seconds


async def pause_after(error: BackendError) -> None:
    """Log that the store has failed, and wait for a moment.

    Raises:
      BackendError: it is one that retrying cannot cure.
    """
    if error.is_final:
        raise error
    log.warning("schedules cannot be read or fired; trying again: %s", error)
    await trio.sleep(_PAUSE)


@final
class _Live:
    """A schedule that is fired here, and when it is due."""

    __slots__ = ("due", "missed", "name", "revision", "schedule", "spec")

    def __init__(self, name: str, revision: int, schedule: StoredSchedule, spec: CronSpec | IntervalSpec) -> None:
        self.name = name
        self.revision = revision
        self.schedule = schedule
        self.spec = spec
        self.due: int | None = None
        self.missed = 0
        """The times that the change under way passes over."""

    def compute_due(self, now: int) -> None:
        """Compute the next time that is not done with; try again later if that raises."""
        with catch_errors() as caught:
            found = self.spec.next_after(moment_after(self.schedule.done))
            self.due = None if found is None else microseconds_of(found)
            return
        log.error("the times of schedule %s cannot be computed", escaped(self.name), exc_info=caught.error)
        self.due = now + _ERROR_PAUSE

    def change(self, now: int) -> ScheduleChange | None:
        """Return the change that fires what is due; None if the times cannot be computed."""
        with catch_errors() as caught:
            return self._change(now)
        log.error("the times of schedule %s cannot be computed", escaped(self.name), exc_info=caught.error)
        self.due = now + _ERROR_PAUSE
        return None

    def _change(self, now: int) -> ScheduleChange | None:
        latest = self.spec.latest_until(moment_after(now))
        if latest is None or (done := microseconds_of(latest)) <= self.schedule.done:
            self.compute_due(now)
            return None
        schedule, tasks = self.schedule, list[TaskTemplate]()
        for time in self._times(done, now):
            tasks.append(firing_task(self.name, schedule, self.spec.zone, time, now))
            schedule = replace(schedule, fired=time)
        self.missed = 1 - len(tasks) if done == self.due else self._count(done) - len(tasks)
        return ScheduleChange(self.name, self.revision, replace(schedule, done=done), tasks)

    def _times(self, latest: int, now: int) -> Sequence[int]:
        """Return the times to fire, of those that are not done with."""
        schedule = self.schedule
        within = LATE if schedule.missed == "skip" and schedule.within is None else schedule.within
        first = schedule.done if within is None else max(schedule.done, now - int(within * 1e6) - 1)
        if schedule.missed != "all":
            return [latest] if latest > first else []
        times = [*takewhile(lambda time: time > first, self._backwards(latest, schedule.limit + 1))]
        if len(times) > schedule.limit:
            log.warning(
                "schedule %s has missed more than %d times: those before %s are passed over",
                escaped(self.name), schedule.limit, moment_after(times.pop() + 1),
            )  # fmt: skip
        return times[::-1]

    def _count(self, latest: int) -> int:
        """Return the number of times up to the latest that are not done with, up to a limit."""
        times = self._backwards(latest, _MOST_COUNTED + 1)
        return sum(1 for _ in takewhile(lambda time: time > self.schedule.done, times))

    def _backwards(self, latest: int, number: int) -> Iterator[int]:
        for _ in range(number):
            yield latest
            found = self.spec.latest_until(moment_after(latest) - _MICROSECOND)
            if found is None:
                return
            latest = microseconds_of(found)


@final
class Scheduler:
    """The loop that fires the schedules of a store.

    Args:
      storages: the queues of the store, by name; schedules of other queues are left to other processes.
      declared: the times of the schedules that stand in the code, by name. Of the stored ones, only these and the
          dynamic ones are fired.
      clock: a function that returns the time by the wall clock, in microseconds since the epoch.
      missed: for each schedule, the times that were passed over; they are added here.
    """

    def __init__(
        self,
        storages: Mapping[str, StoreSchedules],
        declared: Mapping[str, CronSpec | IntervalSpec],
        clock: Callable[[], int],
        missed: Counter[str],
    ) -> None:
        self._storages = {**storages}
        self._store = next(iter(storages.values()))
        self._declared = declared
        self._clock = clock
        self._missed = missed
        self._live: dict[str, _Live] = {}
        self._heap: list[tuple[int, str]] = []
        self._seen = 0
        self._revision = 0
        self._looked_at = -math.inf
        self._noted: set[tuple[str, str]] = set()
        self._to_mark: dict[str, ScheduleChange] = {}
        self._to_renew: dict[str, int] = {}

    @property
    def now(self) -> int:
        """The present time by the wall clock, in microseconds since the epoch."""
        return self._clock() + 1  # a sleep may end a moment too early, by rounding

    async def run(self) -> None:
        """Fire schedules, until it is cancelled or all queues are closed."""
        while self._storages:
            try:
                await self._look()
                if self._to_mark or self._to_renew:
                    await self._mark()
                if self._heap and self._heap[0][0] <= self.now:
                    await self._fire()
                await self._wait()
            except trio.ClosedResourceError:
                self._leave_out(self._store)
            except BackendError as error:
                await pause_after(error)
        await trio.lowlevel.checkpoint()

    def _leave_out(self, closed: StoreSchedules) -> None:
        """Go on without a queue that is closed."""
        for queue in [queue for queue, storage in self._storages.items() if storage is closed]:
            log.info("the queue %r is closed, so its schedules are not fired here any more", queue)
            del self._storages[queue]
            self._live = {name: each for name, each in self._live.items() if each.schedule.queue != queue}
        self._store, self._seen = next(iter(self._storages.values()), closed), 0

    # Looking

    async def _look(self) -> None:
        """Read the changes of schedules."""
        started = trio.current_time()
        is_whole = started > self._looked_at + _LONGEST_GAP
        entries = await self._store.list_schedules(0 if is_whole else self._revision)
        if is_whole:
            there = {entry.name for entry in entries}
            self._live = {name: each for name, each in self._live.items() if name in there}
        await self.note_all(entries)
        self._looked_at = started

    async def note_all(  # noqa: ASYNC910  to read them was a checkpoint
        self, entries: Sequence[ScheduleEntry]
    ) -> None:
        """Take over schedules as they are stored, of which no others were changed before the last one."""
        self._looked_at = trio.current_time()
        for number, entry in enumerate(entries, start=1):
            self._note(entry)
            if not number % _AT_ONCE:
                await trio.lowlevel.checkpoint()

    def _note(self, entry: ScheduleEntry) -> None:
        """Take over a schedule as it is stored."""
        self._revision = max(self._revision, entry.revision)
        known = self._live.get(entry.name)
        if known is not None and known.revision >= entry.revision:
            return
        self._live.pop(entry.name, None)
        self._to_mark.pop(entry.name, None)
        self._to_renew.pop(entry.name, None)
        schedule = entry.schedule
        if schedule is None or schedule.queue not in self._storages:
            return
        self._note_orphan(entry, schedule)
        if schedule.is_paused:
            return
        if not (schedule.is_dynamic or entry.name in self._declared):
            return
        spec = self._spec_of(entry.name, schedule.times)
        if spec is not None:
            live = self._live[entry.name] = _Live(entry.name, entry.revision, schedule, spec)
            live.compute_due(self.now)
            self._push(live)

    def _spec_of(self, name: str, times: str) -> CronSpec | IntervalSpec | None:
        """Return the times of a schedule; None if they are not known here."""
        own = self._declared.get(name)
        if own is not None and str(own) == times:
            return own
        with catch_errors():
            spec = spec_of(times)
            if own is not None and (name, times) not in self._noted:
                self._noted.add((name, times))
                log.warning(
                    "schedule %s is %s here, and a newer process has made it %s, which holds",
                    escaped(name), own, escaped(times),
                )  # fmt: skip
            return spec
        log.error("the times of schedule %s are not known here: %s", escaped(name), escaped(times))
        return None

    # Marking. The store tells which schedules are orphaned, for programs without the code. A scheduler marks those
    # that its code lacks. If another one has them, as in a rolling deploy, that one postpones it while it runs.

    def _note_orphan(self, entry: ScheduleEntry, schedule: StoredSchedule) -> None:
        """Note that a schedule is to be marked as orphaned, or that this is to be postponed, now or later."""
        moment, is_known = schedule.orphaned_from, entry.name in self._declared
        if schedule.is_dynamic or is_known == (moment is None):
            return
        now = self.now
        if moment is None:
            moment = now
        elif moment > now + _CLAIMED_FOR // 2:
            self._to_renew[entry.name] = moment - _CLAIMED_FOR // 2
            return
        else:
            moment = now + _CLAIMED_FOR
        marked = replace(schedule, orphaned_from=moment)
        self._to_mark[entry.name] = ScheduleChange(entry.name, entry.revision, marked)

    async def _mark(self) -> None:
        """Store these marks. Those whose schedule was changed meanwhile are noted again by the next look."""
        for name in [name for name, moment in self._to_renew.items() if moment <= self.now]:
            for entry in await self._store.list_schedules(name=name):
                self._to_renew.pop(name, None)
                if entry.schedule is not None:
                    self._note_orphan(entry, entry.schedule)
        while self._to_mark:
            some = [*islice(self._to_mark.values(), _AT_ONCE)]
            await self._store.set_schedules(some)
            for change in some:
                self._to_mark.pop(change.name, None)
        await trio.lowlevel.checkpoint()

    def _push(self, live: _Live) -> None:
        if live.due is not None:
            heappush(self._heap, (live.due, live.name))

    # Firing

    def _pop_due(self, now: int) -> list[_Live]:
        """Return the schedules that are due, up to so many."""
        due: dict[str, _Live] = {}
        while self._heap and self._heap[0][0] <= now and len(due) < _AT_ONCE:
            moment, name = heappop(self._heap)
            live = self._live.get(name)
            if live is not None and live.due == moment:
                due[name] = live
        return [*due.values()]

    async def _fire(self) -> None:
        """Fire all schedules that are due."""
        while due := self._pop_due(self.now):
            now = self.now
            changes: defaultdict[str, list[tuple[_Live, ScheduleChange]]] = defaultdict(list)
            waiting = {live.name: live for live in due}
            try:
                for number, live in enumerate(due, start=1):
                    change = live.change(now)
                    if change is not None:
                        changes[live.schedule.queue].append((live, change))
                    if not number % _COMPUTED_AT_ONCE:
                        await trio.lowlevel.checkpoint()
                for queue, several in changes.items():
                    await self._make(queue, several)
                    for live, _ in several:
                        del waiting[live.name]
            finally:  # these were not fired, and are due still, or later
                for live in waiting.values():
                    self._push(live)
        await trio.lowlevel.checkpoint()

    async def _make(self, queue: str, several: Sequence[tuple[_Live, ScheduleChange]]) -> None:
        storage = self._storages[queue]
        try:
            results = await storage.set_schedules([change for _, change in several])
        except trio.ClosedResourceError:
            self._leave_out(storage)
            return  # noqa: ASYNC910  the next look is a checkpoint
        for (live, change), result in zip(several, results, strict=True):
            if not result.revision:  # it was changed meanwhile, so the next look tells of it
                live.due = None
                continue
            assert change.schedule is not None
            live.revision, live.schedule = result.revision, change.schedule
            if live.missed:
                self._missed[live.name] += live.missed
            live.compute_due(self.now)
            self._push(live)

    # Waiting

    async def _wait(self) -> None:
        """Wait until a schedule is due, or may have been changed."""
        while self._heap and not self._is_valid(*self._heap[0]):
            heappop(self._heap)
        moments = [*self._to_renew.values(), *(moment for moment, _ in self._heap[:1])]
        seconds = seconds_to_sleep(max(0.0, (min(moments) - self._clock()) / 1e6)) if moments else math.inf
        with trio.move_on_after(seconds):
            self._seen = await self._store.wait_for_schedules(self._seen)
            await trio.sleep(max(0.0, self._looked_at + _LOOKS_APART - trio.current_time()))

    def _is_valid(self, moment: int, name: str) -> bool:
        live: Any = self._live.get(name)
        return live is not None and live.due == moment
