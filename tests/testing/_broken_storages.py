"""Broken storages for tests of the conformance kit: each has one fault, which one rule must find."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

import trio
from trio_tasks import (
    AbortError,
    ChangeReport,
    DeadlineError,
    DeadlinePassed,
    Expired,
    Failed,
    Killed,
    LeaseLostError,
    Limits,
    Metadata,
    Outcome,
    Page,
    Parts,
    Pushed,
    QueueMetrics,
    Released,
    Replaced,
    Retried,
    Status,
    StorageEvent,
    StoredTask,
    Succeeded,
    Suspended,
    Task,
    TaskExpiredError,
    TaskId,
    UnknownTaskError,
    WorkerContext,
    WorkerInfo,
)
from trio_tasks._backends.durable.queue import QueueState
from trio_tasks._backends.durable.storage import DurableStorage
from trio_tasks._contracts.event_readers import EventReaders
from trio_tasks._contracts.explanation import Place
from trio_tasks._contracts.sink import make_tasks
from trio_tasks._logging import catch_errors
from trio_tasks._tasks.task_info import NOTHING_KNOWN, KnownTaskInfo
from trio_tasks.abc import EMPTY_METRICS, NowaitBackend, ScheduleChange, ScheduleResult

from tests.storages._engine import TroubledEngine
from tests.testing._leased_storage import LeasedStorage, Row, Store

C = TypeVar("C", bound=Callable[[Store], Any])

BROKEN: dict[str, tuple[Callable[[Store], Any], frozenset[str]]] = {}
"""For each rule, the storage that breaks it, and the other rules that see the fault as well."""


SOMETIMES_SEEN_BY: dict[str, frozenset[str]] = {}
"""Other rules that notice the fault in some orders of trio tasks, and not in others."""


def breaks(rule: str, *also: str, sometimes: Iterable[str] = ()) -> Callable[[C], C]:
    """Enter a storage that breaks this rule; some others always notice, and some sometimes."""

    def enter(kind: C) -> C:
        assert rule not in BROKEN
        BROKEN[rule] = kind, frozenset({rule, *also})
        SOMETIMES_SEEN_BY[rule] = frozenset(sometimes)
        return kind

    return enter


# What goes in


@breaks("a_task_comes_out_as_it_went_in")
class ForgetsTimeouts(LeasedStorage):
    def shown(self, row: Row) -> Task[Any]:
        task = super().shown(row)
        task.parts.terms = replace(task.parts.terms, timeout=None)
        return task


@breaks("ids_are_given_where_none_is", "pushing_again_counts_once")
class TakesEqualArgsForOneTask(LeasedStorage):
    def enter(self, task: Task[Any]) -> TaskId:
        for row in self.rows_of(Status.Pending):
            if row.args == self.encode(task.args):
                return row.parts.id
        return super().enter(task)


@breaks("metadata_is_kept")
class CutsTextsAtZeroBytes(LeasedStorage):
    def shown(self, row: Row) -> Task[Any]:
        row.metadata = row.metadata.replace("\\u0000", "")
        return super().shown(row)


@breaks("large_tasks_are_kept")
class HasShortColumns(LeasedStorage):
    def shown(self, row: Row) -> Task[Any]:
        notes = json.loads(row.metadata)
        row.metadata = json.dumps({name: v[:65_535] if isinstance(v, str) else v for name, v in notes.items()})
        return super().shown(row)


@breaks("args_of_all_sizes_are_kept")
class HasNumbersOf32Bits(LeasedStorage):
    def encode(self, args: Any) -> str:
        return super().encode(args & 0xFFFFFFFF if isinstance(args, int) else args)


@breaks("a_bulk_goes_in_as_a_whole")
class MixesUpIds(LeasedStorage):
    async def push_bulk(self, many: Any, **options: Any) -> list[TaskId]:
        return (await super().push_bulk(many, **options))[::-1]


@breaks(
    "a_receiver_that_waits_is_served",
    "a_task_goes_to_one_receiver",
    "a_call_returns_the_result_of_its_task",
    "a_cancelled_call_ends_its_task",
)
class WakesNoWaiter(LeasedStorage):
    def enter(self, task: Task[Any]) -> TaskId:
        mark_changed, self.store.mark_changed = self.store.mark_changed, lambda: None  # type: ignore[method-assign]  # for this once
        try:
            return super().enter(task)
        finally:
            self.store.mark_changed = mark_changed  # type: ignore[method-assign]  # as it was


@breaks("a_known_id_is_refused")
class TakesNoNoticeOfKnownIds(LeasedStorage):
    def known(self, task: Task[Any]) -> TaskId:
        running = self.store.rows[task.parts.id].status is Status.Running
        return task.parts.id if running else super().known(task)


@breaks("pushing_again_counts_once", "an_audit_is_true_at_any_moment")
class CountsTwice(LeasedStorage):
    def known(self, task: Task[Any]) -> TaskId:
        row = self.store.rows[task.parts.id]
        if row.args == self.encode(task.args):
            copy = replace(row, parts=Parts(f"{task.parts.id} again", terms=row.parts.terms))
            self.store.rows[copy.parts.id] = copy
        return super().known(task)


@breaks("wrong_options_are_refused")
class TakesNanForNothing(LeasedStorage):
    async def push(self, args: Any, **options: Any) -> TaskId:
        if math.isnan(options.get("delay", 0)):
            del options["delay"]
        return await super().push(args, **options)


@breaks("what_is_no_task_is_refused")
class MakesTasksOfAnything(LeasedStorage):
    async def push_task(self, task: Any) -> TaskId:
        return await super().push_task(task if isinstance(task, Task) else Task(str(task)))


@breaks("a_bulk_is_checked_before_it_is_stored")
class StreamsItsBulks(LeasedStorage):
    async def push_bulk(self, many: Any, **options: Any) -> list[TaskId]:
        if isinstance(many, list):
            return await super().push_bulk(many, **options)
        return [await self.push(args, **options) for args in many]


@breaks("what_cannot_be_encoded_is_refused")
class EncodesAnything(LeasedStorage):
    def encode(self, args: Any) -> str:
        return json.dumps(args, default=repr)


# In which order


@breaks("first_come_first_served")
class IsUnfairToMany(LeasedStorage):
    def order(self, row: Row) -> Any:
        return (-row.place[1],) if len(self.rows_of(Status.Pending)) in (18, 19) else super().order(row)


@breaks("higher_priority_goes_first")
class KnowsNoLowPriority(LeasedStorage):
    def order(self, row: Row) -> Any:
        return -max(0, row.parts.priority), row.place

    def level_of(self, row: Row) -> int:
        return max(0, row.parts.priority)


@breaks("a_delay_is_waited_for", "a_restart_loses_nothing")
class IsEarly(LeasedStorage):
    def enter(self, task: Task[Any]) -> TaskId:
        task_id = super().enter(task)
        if task.parts.terms.delay and not task.parts.terms.priority:
            self.store.rows[task_id].due -= 0.1
        return task_id


@breaks("a_moment_is_waited_for")
class KnowsNoMoments(LeasedStorage):
    def enter(self, task: Task[Any]) -> TaskId:
        if not task.parts.terms.delay:
            task.parts.run_at = None
        return super().enter(task)


@breaks("a_delayed_task_lets_ready_ones_pass", "what_waits_is_listed_in_order", "a_task_that_waits_holds_no_slot")
class WaitsForTheMostImportant(LeasedStorage):
    def ready(self) -> list[Row]:
        waiting = self.rows_of(Status.Pending)
        highest = max((row.parts.priority for row in waiting), default=0)
        return [row for row in super().ready() if row.parts.priority >= min(0, highest)]


@breaks(
    "what_has_expired_is_not_started",
    "changes_are_told",
    "what_has_expired_is_seen_as_killed",
    "an_expiry_is_waited_for",
    "what_has_expired_gives_up_its_key",
    "what_is_past_its_deadline_is_not_started",
    "a_deadline_holds_for_what_comes_back",
    "what_is_past_its_deadline_is_seen_as_killed",
    "a_deadline_is_waited_for",
    "the_end_at_a_deadline_is_told",
)
class KnowsNoExpiry(LeasedStorage):
    def match_waiters(self) -> None:
        for row in self.rows_of(Status.Pending):
            if not row.attempt:
                row.start_by = None
        super().match_waiters()


@breaks("what_has_expired_is_seen_as_killed", "what_is_past_its_deadline_is_seen_as_killed")
class ShowsWhatWasEnteredOnly(LeasedStorage):
    async def fetch_by_id(self, task_id: str) -> Task[Any] | None:
        await trio.lowlevel.checkpoint()
        row = self.store.rows.get(task_id)
        return None if row is None else self.shown(row)


@breaks("an_expiry_is_waited_for", "a_deadline_is_waited_for")
class TellsExpiriesOnlyToReceivers(LeasedStorage):
    async def wait_for(self, task_id: Any) -> Any:
        row = await self.find(task_id)
        while row is not None and row.result is None:
            await self.store.changed.wait()
        return await super().wait_for(task_id)


@breaks("what_has_expired_gives_up_its_key")
class KeepsTheKeysOfTheExpired(LeasedStorage):
    def enter(self, task: Task[Any]) -> TaskId:
        match_waiters, self.match_waiters = self.match_waiters, lambda: None  # type: ignore[method-assign]  # for this once
        try:
            return super().enter(task)
        finally:
            self.match_waiters = match_waiters  # type: ignore[method-assign]  # as it was


@breaks(
    "what_is_past_its_deadline_is_not_started",
    "a_deadline_holds_for_what_comes_back",
    "what_is_past_its_deadline_is_seen_as_killed",
    "a_deadline_is_waited_for",
    "the_end_at_a_deadline_is_told",
)
class KillsNothingAtItsDeadline(LeasedStorage):
    def bound(self, row: Row) -> None:
        pass


@breaks("a_deadline_holds_for_what_comes_back", "what_is_past_its_deadline_is_seen_as_killed")
class ForgetsTheDeadlineAtTheFirstAttempt(LeasedStorage):
    def bound(self, row: Row) -> None:
        if not row.has_begun:
            super().bound(row)


@breaks("an_attempt_has_the_deadline_of_its_task")
class GivesOutTasksWithoutTheirDeadline(LeasedStorage):
    def hand_out(self, row: Row) -> Task[Any]:
        task = super().hand_out(row)
        task.parts.deadline = None
        return task


@breaks("what_is_past_its_deadline_is_seen_as_killed")
class KeepsTheDeadlineOfWhatIsResumed(LeasedStorage):
    async def resume_by_id(self, task_id: Any) -> Any:
        row = self.store.rows.get(task_id)
        end = None if row is None else row.end
        resumed = await super().resume_by_id(task_id)
        if row is not None:
            row.end = end
        return resumed


@breaks("the_end_at_a_deadline_is_told")
class TellsOfExpiriesAlone(LeasedStorage):
    def tell(self, event: StorageEvent) -> None:
        super().tell(Expired(event.id) if isinstance(event, DeadlinePassed) else event)


@breaks("a_deadline_is_waited_for", "what_is_past_its_deadline_is_not_started", "a_deadline_holds_for_what_comes_back")
class TakesADeadlineForAnExpiry(LeasedStorage):
    def finish(self, row: Row, outcome: Any) -> None:
        is_late = isinstance(outcome, Killed) and isinstance(outcome.error, DeadlineError)
        super().finish(row, Killed(TaskExpiredError("expired")) if is_late else outcome)


@breaks("what_was_started_in_time_does_not_expire")
class KillsWhatWasStarted(LeasedStorage):
    def hand_out(self, row: Row) -> Task[Any]:
        start_by = row.start_by
        task = super().hand_out(row)
        row.start_by = start_by
        return task


@breaks(
    "a_taken_key_is_skipped",
    "changes_are_told",
    "a_replaced_task_names_its_successor",
    "the_holder_of_a_key_is_updated",
    "a_key_is_held_until_it_is_forgotten",
    "a_key_is_held_for_its_time",
)
class FreesKeysAtTheStart(LeasedStorage):
    def holder_of(self, key: str) -> Row | None:
        row = super().holder_of(key)
        return row if row is None or row.status is Status.Pending else None


@breaks("a_task_is_pushed_or_got", "a_cancelled_call_leaves_the_holder_of_its_key_alone")
class FindsAllNew(LeasedStorage):
    async def push_or_get(self, args: Any, **options: Any) -> Pushed:
        return replace(await super().push_or_get(args, **options), is_new=True)


@breaks("a_taken_key_is_replaced", "changes_are_told", "a_replaced_task_names_its_successor")
class ReplacesNothing(LeasedStorage):
    def enter(self, task: Task[Any]) -> TaskId:
        if task.parts.on_conflict == "replace":
            task.parts.terms = replace(task.parts.terms, on_conflict="skip")
        return super().enter(task)


@breaks("a_replaced_task_names_its_successor")
class NamesNoSuccessor(LeasedStorage):
    def finish(self, row: Row, outcome: Succeeded[Any] | Failed | Killed) -> None:
        replaced = isinstance(outcome, Killed) and str(outcome.error).startswith("replaced by ")
        super().finish(row, Killed(AbortError("replaced")) if replaced else outcome)


@breaks("the_holder_of_a_key_is_updated")
class UpdatesNothing(LeasedStorage):
    def enter(self, task: Task[Any]) -> TaskId:
        if task.parts.on_conflict == "update":
            task.parts.terms = replace(task.parts.terms, on_conflict="skip")
        return super().enter(task)


@breaks("a_taken_key_is_refused", "a_key_is_held_until_it_is_forgotten")
class RefusesNothing(LeasedStorage):
    def enter(self, task: Task[Any]) -> TaskId:
        if task.parts.on_conflict == "raise":
            task.parts.terms = replace(task.parts.terms, on_conflict="skip")
        return super().enter(task)


@breaks(
    "a_key_is_free_after_the_end",
    "changes_are_told",
    "a_replaced_task_names_its_successor",
    "what_has_expired_gives_up_its_key",
)
class KeepsTheKeysOfTheKilled(LeasedStorage):
    def holder_of(self, key: str) -> Row | None:
        killed = [row for row in self.rows_of(Status.Killed) if row.parts.terms.unique == key]
        return killed[0] if killed else super().holder_of(key)


@breaks("a_key_is_free_after_the_start")
class KeepsTheKeysOfTheBegun(LeasedStorage):
    def hand_out(self, row: Row) -> Task[Any]:
        task = super().hand_out(row)
        row.has_begun = False
        return task


@breaks("a_key_is_held_until_it_is_forgotten")
class FreesTheKeysOfTheFinished(LeasedStorage):
    def holds_key(self, row: Row) -> bool:
        return super().holds_key(row) and not row.status.is_final


@breaks("a_key_is_held_for_its_time")
class ForgetsTheTimesOfKeys(LeasedStorage):
    def holder_of(self, key: str) -> Row | None:
        row = super().holder_of(key)
        return None if row is not None and row.parts.terms.unique_for is not None and row.status.is_final else row


# The outcomes


@breaks(
    "succeeded_is_final",
    "a_call_returns_the_result_of_its_task",
    "an_end_can_be_waited_for",
    "an_end_is_remembered",
    "results_and_aborts_are_settled",
    "the_past_of_a_task_is_shown",
)
class LosesResults(LeasedStorage):
    def finish(self, row: Row, outcome: Succeeded[Any] | Failed | Killed) -> None:
        super().finish(row, Succeeded(None) if isinstance(outcome, Succeeded) else outcome)


@breaks("failed_is_final", "an_error_is_retried_and_then_final")
class LosesErrors(LeasedStorage):
    def finish(self, row: Row, outcome: Succeeded[Any] | Failed | Killed) -> None:
        super().finish(row, Failed(ValueError("something")) if isinstance(outcome, Failed) else outcome)


@breaks(
    "killed_is_final",
    "a_call_returns_the_result_of_its_task",
    "a_replaced_task_names_its_successor",
    "what_is_past_its_deadline_is_not_started",
    "a_deadline_holds_for_what_comes_back",
    "a_deadline_is_waited_for",
)
class LosesReasons(LeasedStorage):
    def finish(self, row: Row, outcome: Succeeded[Any] | Failed | Killed) -> None:
        super().finish(row, Killed(ValueError("something")) if isinstance(outcome, Killed) else outcome)


@breaks("retried_waits_and_comes_back", "metadata_of_a_running_task_is_set")
class RetriesWithoutMetadata(LeasedStorage):
    def enter_outcome(self, row: Row, outcome: Outcome) -> None:
        super().enter_outcome(row, outcome)
        if isinstance(outcome, Retried):
            row.metadata = "{}"


@breaks("released_comes_back_untouched")
class SendsToTheEndOfTheQueue(LeasedStorage):
    def enter_outcome(self, row: Row, outcome: Outcome) -> None:
        super().enter_outcome(row, outcome)
        if isinstance(outcome, Released):
            row.place = trio.current_time(), next(self.store.numbers)


@breaks("suspended_waits_and_comes_back")
class SuspendsWithoutMetadata(LeasedStorage):
    def enter_outcome(self, row: Row, outcome: Outcome) -> None:
        super().enter_outcome(row, outcome)
        if isinstance(outcome, Suspended):
            row.metadata = "{}"


@breaks("a_suspension_may_have_no_end")
class FreesTheKeysOfTheSuspended(LeasedStorage):
    def enter_outcome(self, row: Row, outcome: Outcome) -> None:
        super().enter_outcome(row, outcome)
        if isinstance(outcome, Suspended):
            row.parts.terms = replace(row.parts.terms, unique=None)


@breaks("a_suspension_costs_no_attempt", "attempts_are_counted_once", "suspended_waits_and_comes_back")
class CountsTheSecondSuspension(LeasedStorage):
    def enter_outcome(self, row: Row, outcome: Outcome) -> None:
        super().enter_outcome(row, outcome)
        if isinstance(outcome, Suspended):
            row.attempt += row.progress == "suspended"
            row.progress = "suspended"


@breaks("attempts_are_counted_once", "a_cancelled_worker_loses_nothing")
class CountsLaterReleases(LeasedStorage):
    def enter_outcome(self, row: Row, outcome: Outcome) -> None:
        super().enter_outcome(row, outcome)
        if isinstance(outcome, Released) and row.attempt:
            row.attempt += 1


@breaks("a_task_is_settled_once", "an_audit_is_true_at_any_moment")
class KillsTheDead(LeasedStorage):
    async def settle(self, task: Task[Any], outcome: Outcome) -> None:
        row = self.store.rows.get(task.parts.id)
        if row is not None and row.status.is_final and isinstance(outcome, Killed):
            self.finish(row, outcome)
            return
        await super().settle(task, outcome)


@breaks("an_earlier_attempt_cannot_settle", "errors_are_retried_for_a_limited_time")
class HasOneTokenForAllRetries(LeasedStorage):
    def enter_outcome(self, row: Row, outcome: Outcome) -> None:
        super().enter_outcome(row, outcome)
        if isinstance(outcome, Retried):
            row.mark = "retried"

    def hand_out(self, row: Row) -> Task[Any]:
        token = row.token
        task = super().hand_out(row)
        if row.mark == "retried":
            row.token = task.parts.context = token
        return task


@breaks("what_is_no_outcome_is_refused")
class TakesAnythingForSuccess(LeasedStorage):
    def enter_outcome(self, row: Row, outcome: Any) -> None:
        super().enter_outcome(row, Succeeded(outcome) if isinstance(outcome, str) else outcome)


@breaks("taking_without_waiting_is_taking", "a_call_returns_the_result_of_its_task", "a_cancelled_call_ends_its_task")
class EndsBeforeItBegins(LeasedStorage):
    def receive_nowait(self) -> Task[Any]:
        if not self.store.rows:
            raise trio.EndOfChannel
        return super().receive_nowait()


@breaks("settling_without_waiting_is_settling")
class SettlesTwice(LeasedStorage, NowaitBackend[Any]):
    def settle_nowait(self, task: Task[Any], outcome: Outcome) -> None:
        with suppress(LeaseLostError):
            self.enter_outcome(self.held(task), outcome)


# Leases


@breaks("an_orphan_comes_back")
class HasHalfLeases(LeasedStorage):
    def hand_out(self, row: Row) -> Task[Any]:
        task = super().hand_out(row)
        row.until -= self.lease / 2
        return task


@breaks("settling_is_fenced")
class HasNoFence(LeasedStorage):
    async def settle(self, task: Task[Any], outcome: Outcome) -> None:
        row = self.store.rows.get(task.parts.id)
        if row is not None and row.status is Status.Running and not isinstance(outcome, Released):
            if task.parts.context < row.token and row.mark == "orphan":
                self.enter_outcome(row, outcome)
                return
        await super().settle(task, outcome)

    def match_waiters(self) -> None:
        for row in self.rows_of(Status.Running):
            if row.until <= trio.current_time():
                row.mark = "orphan"
        super().match_waiters()


@breaks("a_heartbeat_is_in_time", "a_heartbeat_keeps_the_lease", "a_lost_lease_ends_the_attempt")
class BeatsTooRarely(LeasedStorage):
    heartbeat_interval = 2 * LeasedStorage.lease


@breaks("a_heartbeat_keeps_the_lease")
class RenewsNothing(LeasedStorage):
    def renew(self, row: Row) -> None:
        pass


@breaks("a_lost_lease_ends_the_attempt")
class KeepsLostAttempts(LeasedStorage):
    def lost(self, task: Task[Any]) -> None:
        pass


@breaks("orphans_can_be_resumed_at_once", "running_tasks_are_not_abandoned")
class ResumesEverything(LeasedStorage):
    async def resume_abandoned(self) -> int:
        for row in self.rows_of(Status.Running):
            row.until = 0.0
        return await super().resume_abandoned()


# The end


@breaks("a_push_after_close_is_refused")
class IsNeverClosed(LeasedStorage):
    def enter(self, task: Task[Any]) -> TaskId:
        closed, self.closed = self.closed, False
        try:
            return super().enter(task)
        finally:
            self.closed = closed


class EndsEarly(LeasedStorage):
    def is_forgotten(self, row: Row) -> bool:
        raise NotImplementedError

    def has_ended(self) -> bool:
        return self.closed and all(row.status.is_final or self.is_forgotten(row) for row in self.store.rows.values())


@breaks("what_waits_is_given_before_the_end")
class EndsBeforeTheDelayed(EndsEarly):
    def is_forgotten(self, row: Row) -> bool:
        return row.status is Status.Pending and not row.attempt


@breaks("what_is_retried_is_given_before_the_end", "a_worker_ends_when_all_is_done")
class EndsBeforeTheRetried(EndsEarly):
    def is_forgotten(self, row: Row) -> bool:
        return row.status is Status.Pending and row.attempt > 0


@breaks("a_waiting_receiver_is_told_of_the_end")
class ClosesQuietly(LeasedStorage):
    def close(self) -> None:
        self.closed = True


@breaks("a_worker_ends_when_all_is_done")
class NeverEndsForWorkers(LeasedStorage):
    def has_ended(self) -> bool:
        return super().has_ended() and all(each.is_stopped for each in self.store.workers)


@breaks("a_restart_loses_nothing", "an_audit_is_true_at_any_moment")
class ForgetsTheDelayed(LeasedStorage):
    async def aclose(self) -> None:
        for row in self.rows_of(Status.Pending):
            if row.due > trio.current_time():
                del self.store.rows[row.parts.id]
        await super().aclose()


@breaks("a_worker_that_is_closed_is_followed", "a_worker_claims_only_what_it_begins", "an_audit_is_true_at_any_moment")
class ForgetsTheReleased(LeasedStorage):
    def enter_outcome(self, row: Row, outcome: Outcome) -> None:
        super().enter_outcome(row, outcome)
        row.mark = "released" if isinstance(outcome, Released) else None

    async def aclose(self) -> None:
        for row in self.rows_of(Status.Pending):
            if row.mark == "released":
                del self.store.rows[row.parts.id]
        await super().aclose()


# Cancellation


@breaks("a_cancelled_push_is_whole_or_nothing")
class PushesInTwoSteps(LeasedStorage):
    async def push_task(self, task: Task[Any]) -> TaskId:
        task_id = await super().push_task(task)
        row = self.store.rows.get(task_id)
        if row is not None and row.hand is None:
            metadata, row.metadata = row.metadata, "{}"
            await trio.lowlevel.checkpoint()
            row.metadata = metadata
        return task_id


@breaks("a_cancelled_bulk_is_a_beginning")
class PushesTheEvenFirst(LeasedStorage):
    async def push_bulk(self, many: Any, **options: Any) -> list[TaskId]:
        tasks: list[Task[Any]] = await make_tasks(many, options)  # type: ignore[arg-type]  # they are checked there
        for task in tasks:
            self.encode(task.args)
        places = [(trio.current_time(), next(self.store.numbers)) for _ in tasks]
        for first in (0, 1):
            for index in range(first, len(tasks), 2):
                self.store.rows[self.enter(tasks[index])].place = places[index]
            await trio.lowlevel.checkpoint()
        return [task.parts.id for task in tasks]


@breaks("a_cancelled_receive_takes_nothing")
class DropsWhatItTook(LeasedStorage):
    async def receive(self) -> Task[Any]:
        try:
            task = self.take()
        except trio.WouldBlock:
            return await super().receive()
        await trio.lowlevel.checkpoint()
        return task


@breaks("a_receive_cancelled_while_it_waits_takes_nothing")
class DropsWhatItWaitedFor(LeasedStorage):
    async def receive(self) -> Task[Any]:
        if self.ready():
            return await super().receive()
        task = await super().receive()
        await trio.lowlevel.checkpoint()
        return task


@breaks("a_cancelled_settle_is_whole_or_nothing")
class SettlesInTwoSteps(LeasedStorage):
    async def settle(self, task: Task[Any], outcome: Outcome) -> None:
        row = self.held(task)
        row.token = task.parts.context = next(self.store.numbers)
        if type(outcome) is Released:
            token, row.token = row.token, 0
            await trio.lowlevel.checkpoint()
            row.token = token
        await super().settle(task, outcome)


@breaks("a_cancelled_worker_loses_nothing")
class LocksItselfUp(LeasedStorage):
    locks = 0

    async def register_worker(self, context: WorkerContext) -> None:
        self.locks += 1
        await super().register_worker(context)
        self.locks -= 1

    def ready(self) -> list[Row]:
        return [] if self.locks else super().ready()


@breaks("a_worker_that_ends_is_quick_and_leaves_nothing_running")
class ClaimsForThoseThatAreGone(LeasedStorage):
    """A storage that claims many tasks in advance, and gives none of them back."""

    async def unregister_worker(self, context: WorkerContext) -> None:
        await super().unregister_worker(context)
        if len(self.ready()) > 50:
            self.hand_out(self.ready()[-1])


# Workers


@breaks("an_error_is_retried_and_then_final")
class IsImpatient(LeasedStorage):
    def enter_outcome(self, row: Row, outcome: Outcome) -> None:
        if isinstance(outcome, Retried) and outcome.after < 0.2:
            outcome = replace(outcome, after=0.0)
        super().enter_outcome(row, outcome)


@breaks("results_and_aborts_are_settled", "a_cancelled_call_ends_its_task")
class TakesAbortsForFailures(LeasedStorage):
    def enter_outcome(self, row: Row, outcome: Outcome) -> None:
        if isinstance(outcome, Killed) and isinstance(outcome.error, AbortError):
            outcome = Failed(outcome.error)
        super().enter_outcome(row, outcome)


@breaks("a_worker_that_stops_leaves_the_rest", "a_worker_that_ends_is_quick_and_leaves_nothing_running")
class ForgetsTheRest(LeasedStorage):
    async def settle(self, task: Task[Any], outcome: Outcome) -> None:
        await super().settle(task, outcome)
        if any(each.is_shutting_down and not each.is_stopped for each in self.store.workers):
            for row in self.rows_of(Status.Pending):
                row.attempt += 1


@breaks("a_cancelled_worker_releases", "a_worker_that_is_closed_is_followed", "a_cancelled_worker_loses_nothing")
class CountsTheReleasesOfSeveral(LeasedStorage):
    def enter_outcome(self, row: Row, outcome: Outcome) -> None:
        is_one_of_several = len(self.rows_of(Status.Running)) > 1
        super().enter_outcome(row, outcome)
        if isinstance(outcome, Released) and is_one_of_several:
            row.attempt += 1


@breaks("a_worker_claims_only_what_it_begins")
class TakesOneMore(LeasedStorage):
    def hand_out(self, row: Row) -> Task[Any]:
        task = super().hand_out(row)
        ready = self.ready()
        if len(ready) == 3 and self.store.workers:
            ready[0].mark = self
        return task

    def ready(self) -> list[Row]:
        return [row for row in super().ready() if row.mark is None or row.mark is self]

    async def aclose(self) -> None:
        for row in self.store.rows.values():
            row.mark = None
        await super().aclose()


@breaks(
    "a_task_goes_to_one_receiver",
    "a_worker_ends_when_all_is_done",
    "a_cancelled_worker_loses_nothing",
    "an_error_is_retried_and_then_final",
    "a_suspension_costs_no_attempt",
    sometimes=["an_audit_is_true_at_any_moment", "errors_are_retried_for_a_limited_time"],
)
class LooksBeforeItTakes(LeasedStorage):
    async def receive(self) -> Task[Any]:
        await trio.lowlevel.checkpoint_if_cancelled()
        self.match_waiters()
        while not (ready := self.takeable()):
            if self.has_ended():
                raise trio.EndOfChannel
            changed = self.store.changed
            with trio.move_on_at(self.next_time()):
                await changed.wait()
            self.match_waiters()
        row = self.first_of(ready)
        await trio.lowlevel.checkpoint()
        return self.hand_out(row)


@breaks("two_workers_share_the_work")
class GivesOneTwice(LeasedStorage):
    def hand_out(self, row: Row) -> Task[Any]:
        task = super().hand_out(row)
        if len(self.rows_of(Status.Pending)) == 45 and row.mark is None:
            row.status, row.attempt, row.mark = Status.Pending, 0, "given before"
        return task


@breaks("a_task_that_waits_holds_no_slot")
class LetsTheWorkerWait(LeasedStorage):
    async def settle(self, task: Task[Any], outcome: Outcome) -> None:
        if isinstance(outcome, Retried) and task.parts.holder is not None:
            await trio.sleep(outcome.after)
            outcome = Retried(outcome.error)
        await super().settle(task, outcome)


# Looking


@breaks("a_task_is_found_by_its_id", "a_suspension_may_have_no_end")
class CountsTheAttemptToCome(LeasedStorage):
    async def fetch_by_id(self, task_id: str) -> Task[Any] | None:
        row = await self.find(task_id)
        if row is None:
            return None
        return self.shown(replace(row, attempt=row.attempt + 1) if row.status is Status.Pending else row)


@breaks("an_end_can_be_waited_for")
class ToldOfSuccessOnly(LeasedStorage):
    async def wait_for(self, task_id: Any) -> Any:
        row = await self.find(task_id)
        is_over = row is None or row.result is not None
        result = await super().wait_for(task_id)
        if not is_over and result.status is Status.Failed:
            await trio.sleep_forever()
        return result


@breaks("an_end_is_remembered")
class RemembersOnce(LeasedStorage):
    async def wait_for(self, task_id: Any) -> Any:
        result = await super().wait_for(task_id)
        self.store.rows.pop(task_id, None)
        return result


@breaks("an_unknown_end_is_not_waited_for")
class WaitsForTheUnknown(LeasedStorage):
    async def wait_for(self, task_id: Any) -> Any:
        try:
            return await super().wait_for(task_id)
        except UnknownTaskError as error:
            unknown = error
        await trio.sleep_forever()
        raise unknown


@breaks(
    "a_wait_for_an_end_can_be_cancelled",
    "a_cancelled_call_ends_its_task",
    "a_cancelled_call_leaves_the_holder_of_its_key_alone",
)
class KillsWithItsWaiter(LeasedStorage):
    async def wait_for(self, task_id: Any) -> Any:
        is_over = False
        try:
            result = await super().wait_for(task_id)
            is_over = True
            return result
        finally:
            row = self.store.rows.get(task_id)
            if not is_over and row is not None:
                self.finish(row, Killed(AbortError("nobody waits for it")))


@breaks("tasks_are_listed_by_status", "a_list_goes_on_page_by_page")
class KnowsNoLimit(LeasedStorage):
    async def list_tasks(self, status: Status | None = None, **options: Any) -> Page[Task[Any]]:
        options.pop("limit", None)
        return await super().list_tasks(status, **options)


@breaks("a_list_goes_on_page_by_page")
class StartsEachPageAnew(LeasedStorage):
    async def list_tasks(self, status: Status | None = None, **options: Any) -> Page[Task[Any]]:
        after = options.pop("after", None)
        page = await super().list_tasks(status, **options)
        if after is not None:  # it goes on behind as many tasks as it has shown, whatever has gone since
            whole = await super().list_tasks(status, **{**options, "limit": 10_000})
            await super().list_tasks(status, after=after, **options)
            self.shown_so_far += options["limit"]
            page = Page(whole[self.shown_so_far - options["limit"] : self.shown_so_far])
            page.next = after if self.shown_so_far < len(whole) else None
        else:
            self.shown_so_far = len(page)
        return page

    shown_so_far = 0


@breaks("lists_can_be_filtered", "many_tasks_can_be_changed")
class FiltersNothing(LeasedStorage):
    async def list_tasks(self, status: Status | None = None, **options: Any) -> Page[Task[Any]]:
        options.pop("metadata", None)
        return await super().list_tasks(status, **options)


@breaks("what_waits_is_listed_in_order")
class ListsAsPushed(LeasedStorage):
    def listed(self, row: Row) -> tuple[float, ...]:
        return (list(self.store.rows).index(row.parts.id),)


@breaks("workers_are_listed")
class KnowsOneWorker(LeasedStorage):
    async def list_workers(self) -> list[str]:
        return (await super().list_workers())[:1]


@breaks("every_task_is_explained")
class KeepsNoReasons(LeasedStorage):
    def enter_outcome(self, row: Row, outcome: Outcome) -> None:
        super().enter_outcome(row, outcome)
        row.reason = None


@breaks("errors_are_retried_for_a_limited_time")
class ForgetsTheFirstAttempt(LeasedStorage):
    def hand_out(self, row: Row) -> Task[Any]:
        task = super().hand_out(row)
        task.parts.context.history = ()
        return task


@breaks("a_worker_runs_until_it_is_idle", "a_cancelled_call_ends_its_task", "what_has_expired_is_seen_as_killed")
class CountsOneTooMany(LeasedStorage):
    async def metrics(self) -> QueueMetrics:
        metrics = await super().metrics()
        return {**metrics, "waiting": max(1, metrics["waiting"])}


@breaks("changes_are_told")
class TellsOfNoReplacements(LeasedStorage):
    def tell(self, event: StorageEvent) -> None:
        if not isinstance(event, Replaced):
            super().tell(event)


@breaks("each_reader_gets_all_changes")
class TellsTheLastReader(LeasedStorage):
    def tell(self, event: StorageEvent) -> None:
        for reader in self.store.readers.open[-1:]:
            reader.tell(event)


@breaks("the_events_end_with_the_storage")
class TellsForEver(LeasedStorage):
    def close(self) -> None:
        self.store.readers, readers = EventReaders(), self.store.readers
        super().close()
        self.store.readers = readers

    def check_open(self) -> None:
        """Take it for open."""


@breaks("the_place_of_a_task_is_explained")
class CountsTheLastAsTheFirst(LeasedStorage):
    def place_behind(self, rows: list[Row]) -> Place:
        return super().place_behind(rows[::-1])


@breaks("queues_are_listed", "queues_are_apart")
class KnowsNoQueue(LeasedStorage):
    async def list_queues(self) -> list[str]:
        await trio.lowlevel.checkpoint()
        return []


@breaks("queues_are_apart")
class HasOneStoreForAllQueues(LeasedStorage):
    def share(self, *, queue: str) -> LeasedStorage:
        self.store.queues[queue] = self.store
        return LeasedStorage(self.store, queue)


@breaks("metrics_count")
class CountsNoReleases(LeasedStorage):
    async def metrics(self) -> QueueMetrics:
        return {**await super().metrics(), "released": 0}


@breaks("attempts_are_added_up")
class AddsUpWhatIsFinished(LeasedStorage):
    def add_up(self, row: Row, outcome: Outcome) -> None:
        if isinstance(outcome, (Succeeded, Failed, Killed)):
            super().add_up(row, outcome)


@breaks("an_audit_is_true_at_any_moment")
class ForgetsResumed(LeasedStorage):
    async def resume_by_id(self, task_id: Any) -> Any:
        resumed = await super().resume_by_id(task_id)
        self.store.counts["resumed"] = 0
        return resumed


@breaks("a_paused_queue_gives_out_nothing")
class PausesByName(LeasedStorage):
    def ready(self) -> list[Row]:
        paused, self.store.is_paused = self.store.is_paused, False
        rows = super().ready()
        self.store.is_paused = paused
        return rows


@breaks("a_pause_outlives_the_handle")
class ForgetsThatItIsPaused(LeasedStorage):
    async def aclose(self) -> None:
        self.store.is_paused = False
        await super().aclose()


# Keys and limits


@breaks("keys_take_turns")
class LetsTasksWithoutAKeyWait(LeasedStorage):
    def first_of(self, ready: list[Row]) -> Row:
        return super().first_of([row for row in ready if row.parts.terms.key] or ready)


@breaks("priority_goes_before_fairness")
class TakesTurnsOverAllPriorities(LeasedStorage):
    def level_of(self, row: Row) -> int:
        return 0


@breaks("turns_go_by_weight")
class WeighsAllAlike(LeasedStorage):
    def turn_of(self, key: str) -> float:
        return 1.0


@breaks("a_key_at_its_limit_is_passed_over")
class KeepsThePlaceOfSuspended(LeasedStorage):
    def running_of(self, key: str | None) -> int:
        suspended = sum(row.is_suspended and row.parts.terms.key == key for row in self.rows_of(Status.Pending))
        return super().running_of(key) + suspended


@breaks("a_queue_runs_no_more_than_its_limit")
class CountsKeyedTasksOnly(LeasedStorage):
    def running_of(self, key: str | None) -> int:
        if key is not None:
            return super().running_of(key)
        return sum(row.parts.terms.key is not None for row in self.rows_of(Status.Running))


@breaks("a_rate_of_a_queue_is_kept")
class CountsNoRetriesForRates(LeasedStorage):
    def hand_out(self, row: Row) -> Task[Any]:
        task = super().hand_out(row)
        if row.attempt > 1:
            self.store.begun[None].pop()
        return task


@breaks("a_rate_of_a_key_is_kept")
class HasOneRateForAllKeys(LeasedStorage):
    def begun_of(self, key: str | None) -> list[float]:
        return super().begun_of(None)


@breaks("limits_are_of_a_queue_or_of_a_key")
class AddsUpLimits(LeasedStorage):
    def limits_of(self, key: str) -> Limits | None:
        own, queue = super().limits_of(key), self.store.limits.get(None)
        says_something = own is not None and (own.per_key or own.rate_per_key) is not None
        return own if queue is None or says_something else queue


@breaks("a_higher_limit_serves_those_that_wait")
class WakesNoReceiverForLimits(LeasedStorage):
    async def set_limits(self, limits: Limits | None, *, key: str | None = None) -> None:
        changed = self.store.changed
        self.store.changed = trio.Event()
        await super().set_limits(limits, key=key)
        self.store.changed = changed


@breaks("tasks_held_back_are_counted_as_delayed")
class CountsHeldTasksAsWaiting(LeasedStorage):
    def counters(self) -> dict[str, int]:
        counters = super().counters()
        held = counters["held_now"]
        return {**counters, "waiting": counters["waiting"] + held, "delayed": counters["delayed"] - held}


@breaks("a_lost_lease_gives_its_place_back")
class KeepsThePlaceOfOrphans(LeasedStorage):
    def match_waiters(self) -> None:
        for row in self.rows_of(Status.Running):
            if row.until <= trio.current_time():
                row.mark = "orphan"
        super().match_waiters()

    def running_of(self, key: str | None) -> int:
        orphans = [row for row in self.rows_of(Status.Pending) if row.mark == "orphan"]
        return super().running_of(key) + len(orphans)


@breaks("limits_outlive_the_handle")
class ForgetsLimits(LeasedStorage):
    async def aclose(self) -> None:
        self.store.limits.clear()
        await super().aclose()


@breaks("metrics_know_the_oldest")
class LooksAtNoPriority(LeasedStorage):
    async def metrics(self) -> QueueMetrics:
        metrics = await super().metrics()
        return {**metrics, "oldest_waiting": 0.0}


@breaks("metadata_of_a_running_task_is_set")
class ForgetsMetadataOfAttempts(LeasedStorage):
    async def set_metadata(self, task: Task[Any], values: Mapping[str, Any]) -> None:
        self.held(task)
        await trio.lowlevel.checkpoint()
        task.parts.metadata = Metadata({**task.parts.metadata, **values})


@breaks("progress_is_shown")
class KeepsTheFirstReport(LeasedStorage):
    async def report_progress(self, task: Task[Any], progress: Any) -> None:
        await super().report_progress(task, self.held(task).progress or progress)


@breaks("the_past_of_a_task_is_shown")
class ForgetsItsPast(LeasedStorage):
    async def resume_by_id(self, task_id: Any) -> Any:
        is_resumed = await super().resume_by_id(task_id)
        if is_resumed:
            self.store.rows[task_id].info = NOTHING_KNOWN
        return is_resumed


@breaks("the_times_of_a_task_are_shown", "errors_are_retried_for_a_limited_time")
class TellsOfItsFirstAttemptOnly(LeasedStorage):
    def hand_out(self, row: Row) -> Task[Any]:
        first = row.parts.started
        task = super().hand_out(row)
        if first is not None:
            row.parts.started = task.parts.started = first
        return task


@breaks("workers_tell_of_themselves")
class TellsNothingOfRunningTasks(LeasedStorage):
    async def workers(self, *, fresh: bool = False) -> list[WorkerInfo]:
        return [replace(each, running=()) for each in await super().workers(fresh=fresh)]


@breaks("a_failed_attempt_tells_all")
class KeepsAllTracebacks(LeasedStorage):
    def note(self, row: Row, outcome: Outcome) -> None:
        before = row.info.history
        super().note(row, outcome)
        if row.info.history is not before:
            row.info = replace(row.info, history=(*before, row.info.history[-1]))


@breaks("one_that_was_cancelled_tells_when")
class TellsNoEndWithoutAnAttempt(LeasedStorage):
    def shown(self, row: Row) -> Task[Any]:
        task = super().shown(row)
        if task.parts.started is None:
            task.parts.finished = None
        return task


@breaks("the_name_of_a_task_is_kept")
class NamesNoTaskWithOptions(LeasedStorage):
    def shown(self, row: Row) -> Task[Any]:
        task = super().shown(row)
        if task.parts.terms.attempts is not None:
            task.parts.terms = replace(task.parts.terms, name=None)
        return task


@breaks("the_worker_of_an_attempt_is_named", "one_worker_of_several_is_named")
class KnowsNoNames(LeasedStorage):
    def info_of(self, row: Row) -> KnownTaskInfo:
        return replace(super().info_of(row), worker=None)


@breaks("one_worker_of_several_is_named")
class NamesAllWorkers(LeasedStorage):
    def info_of(self, row: Row) -> KnownTaskInfo:
        info = super().info_of(row)
        if row.status is Status.Running:
            info = replace(info, worker=", ".join(each.name for each in self.store.workers))
        return info


# Changing


@breaks("a_waiting_task_can_be_updated")
class KeepsOldMetadata(LeasedStorage):
    async def update(self, task: Task[Any]) -> bool:
        row = await self.find(task.parts.id)
        return await super().update(Task(task.args, row.parts if row is not None else task.parts))


@breaks("a_ready_task_keeps_its_place")
class SendsTheRescheduledBehind(LeasedStorage):
    async def reschedule(self, task_id: Any, delay: float) -> Any:
        row = await self.waiting(task_id)
        if row is not None and not delay:
            row.place = trio.current_time(), next(self.store.numbers)
        return await super().reschedule(task_id, delay)


@breaks("a_waiting_task_can_be_rescheduled")
class MovesToEarlierOnly(LeasedStorage):
    async def reschedule(self, task_id: Any, delay: float) -> Any:
        row = await self.waiting(task_id)
        is_later = row is not None and row.due < trio.current_time() + delay
        return is_later or await super().reschedule(task_id, delay)


@breaks("a_waiting_task_can_be_cancelled", "changes_are_told")
class CancelsTheUnknown(LeasedStorage):
    async def cancel(self, task_id: Any, *, running: bool = False) -> Any:
        return await super().cancel(task_id, running=running) or (not running and task_id not in self.store.rows)


@breaks("a_task_can_be_cancelled_wherever_it_is", "a_cancelled_call_ends_its_task")
class CancelsOnlyWhatWaits(LeasedStorage):
    async def cancel(self, task_id: Any, *, running: bool = False) -> Any:
        return await super().cancel(task_id)


@breaks("a_running_task_can_be_aborted", "a_cancelled_call_ends_its_task", "a_task_can_be_cancelled_wherever_it_is")
class AbortsInWordsOnly(LeasedStorage):
    async def abort(self, task_id: Any) -> Any:
        row = await self.find(task_id)
        return row is not None and row.hand is not None


@breaks("a_finished_task_can_be_resumed")
class ResumesWithItsAttempts(LeasedStorage):
    async def resume_by_id(self, task_id: Any) -> Any:
        row = await self.find(task_id)
        attempt = row.attempt if row is not None else 0
        is_resumed = await super().resume_by_id(task_id)
        if row is not None and row.parts.terms.unique is None:
            row.attempt = attempt
        return is_resumed


@breaks("a_dead_letter_keeps_off_a_taken_key")
class ResumesRegardless(LeasedStorage):
    async def resume_by_id(self, task_id: Any) -> Any:
        row = await self.find(task_id)
        if row is not None:
            row.parts.terms = replace(row.parts.terms, unique=None)
        return await super().resume_by_id(task_id)


@breaks("finished_tasks_can_be_forgotten", "old_tasks_can_be_forgotten")
class KeepsDeadLetters(LeasedStorage):
    async def vacuum(self, *, older_than: float | None = None, status: Status | None = None) -> int:
        await trio.lowlevel.checkpoint()
        done = self.rows_of(Status.Done)
        for row in done:
            del self.store.rows[row.parts.id]
        return len(done)


@breaks("old_tasks_can_be_forgotten")
class ForgetsNewOnesToo(LeasedStorage):
    async def vacuum(self, *, older_than: float | None = None, status: Status | None = None) -> int:
        return await super().vacuum(status=status)


@breaks("many_tasks_can_be_changed")
class ChangesAll(LeasedStorage):
    async def cancel_all(self, status: Status | None = None, **filters: Any) -> int:
        return await super().cancel_all(status)


@breaks("a_verb_says_which_of_several_tasks_it_changed")
class SaysThatAllWereChanged(LeasedStorage):
    async def change_each(self, verb: str, ids: Any, change: Any) -> ChangeReport:
        report = await super().change_each(verb, ids, change)
        return ChangeReport((*report.changed, *map(TaskId, report.refused)), {}, verb)


@breaks("several_tasks_are_returned_in_the_order_of_their_ids")
class FetchesInItsOwnOrder(LeasedStorage):
    async def fetch_each(self, ids: Iterable[str]) -> list[Any]:
        return await super().fetch_each(sorted(ids))


@breaks("running_tasks_are_not_abandoned", "orphans_can_be_resumed_at_once")
class ResumesRunningTasks(LeasedStorage):
    async def resume_abandoned(self) -> int:
        for row in self.rows_of(Status.Running):
            row.until = 0.0
        return await super().resume_abandoned()


@breaks("one_task_can_be_forgotten", "changes_are_told", "an_audit_is_true_at_any_moment")
class DiscardsAnything(LeasedStorage):
    async def discard(self, task_id: Any) -> Any:
        await trio.lowlevel.checkpoint()
        return self.store.rows.pop(task_id, None) is not None


@breaks("a_time_of_a_schedule_is_fired_once")
class FiresTwice(LeasedStorage):
    def set_schedule(self, change: ScheduleChange) -> ScheduleResult:
        known = self.store.schedules.get(change.name)
        if known is not None and known.schedule is not None and change.was:
            change = change._replace(was=known.revision)
        return super().set_schedule(change)


# Calls


@breaks("a_call_returns_the_result_of_its_task")
class ReturnsTheErrorOfACall(LeasedStorage):
    async def call(self, args: Any, type: Any = None, **options: Any) -> Any:
        try:
            return await super().call(args, type, **options)
        except AbortError as error:
            return error


@breaks("a_cancelled_call_ends_its_task")
class ReturnsBeforeTheEnd(LeasedStorage):
    async def end_call(self, task_id: str) -> None:
        with trio.CancelScope(shield=True):
            await self.cancel(task_id)


@breaks("a_cancelled_call_leaves_the_holder_of_its_key_alone")
class EndsTheHolderOfTheKey(LeasedStorage):
    async def call(self, args: Any, type: Any = None, **options: Any) -> Any:
        pushed = await self.push_or_get(args, **options)
        try:
            return (await self.wait_for(pushed.id)).unwrap()
        except trio.Cancelled:
            await self.end_call(pushed.id)
            raise


# On an engine


class OnEngine(DurableStorage[Any]):
    """A DurableStorage on an engine in memory."""

    def __init__(self, _: Store) -> None:
        self._found(TroubledEngine(), QueueState("q", Any, {"lease": 1.0}), 1.0)


@breaks("an_exported_task_can_be_imported")
class ExportsNoHistory(OnEngine):
    async def export_tasks(self, after: str | None = None, *, limit: int = 500) -> Page[StoredTask]:
        page = await super().export_tasks(after, limit=limit)
        return Page([replace(each, history=None) for each in page], next=page.next)


@breaks("an_engine_error_reaches_only_its_caller")
class MakesUpNumbers(OnEngine):
    async def metrics(self) -> QueueMetrics:
        with catch_errors():
            return await super().metrics()
        return {**EMPTY_METRICS}


@breaks("a_settlement_outlives_an_engine_that_raises")
class GivesUpAtOnce(OnEngine):
    def __init__(self, store: Store) -> None:
        super().__init__(store)
        bear = self._loop._handle_failure

        async def give_up(error: Any, *args: Any) -> None:
            error.is_final = True
            await bear(error, *args)

        self._loop._handle_failure = give_up  # type: ignore[method-assign, assignment]  # it is the fault


@breaks("a_closing_that_raises_ends_all_the_same")
class StaysOpenIfItCannotSettle(OnEngine):
    async def aclose(self) -> None:
        await self._loop._make_last_exchange()
        await super().aclose()
