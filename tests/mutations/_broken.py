"""The mutations: for each promise, a few changes to the library that break it.

Each is a piece of the source, which is there once, and what stands there instead. So this list has to follow the
source, and ``tests/test_mutations.py`` says so when it does not.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutation:
    """A change to the library that breaks a promise.

    Attributes:
      name: short, for the command line.
      promise: which one.
      what: what is wrong then, for people.
      file: in ``trio_tasks/``.
      before: what stands there; ``after``: what stands there instead.
      proofs: which to try, in this order, before the tests of the promise; see ``tests/mutations/_trial.py``.
    """

    name: str
    promise: int
    what: str
    file: str
    before: str
    after: str
    proofs: tuple[str, ...] = ("memory",)


MUTATIONS = [
    Mutation(
        "children-outlive",
        1,
        "the nursery of an attempt is the worker's: it is settled before its children end",
        "_handlers/adapter.py",
        "values.update(dict.fromkeys(plan.nurseries, nursery))",
        "values.update(dict.fromkeys(plan.nurseries, trio.lowlevel.current_task().parent_nursery))",
    ),
    Mutation(
        "success-before-the-end",
        1,
        "a task is settled when its handler has been called, not when it has ended",
        "_worker/slot.py",
        """                result = await self._run(task)
                self._outcome = _SUCCEEDED if result is None else self._outcome_of(result)
        finally:
""",
        """                self._outcome = _SUCCEEDED
                self._settle_nowait and self._settle_nowait(task, self._outcome)
                result = await self._run(task)
        finally:
""",
    ),
    Mutation(
        "no-shield",
        2,
        "a cancellation can cut the settling short",
        "_worker/slot.py",
        """            else:
                with trio.fail_after(self._settle_timeout, shield=True):""",
        """            else:
                with trio.fail_after(self._settle_timeout):""",
        ("memory", "cuts"),
    ),
    Mutation(
        "cancelled-is-failed",
        2,
        "an attempt that was cancelled from outside has failed",
        "_worker/slot.py",
        'self._outcome = Released("cancelled")',
        "self._outcome = self._judge(error)",
    ),
    Mutation(
        "await-before-the-attempt",
        2,
        "something is awaited between taking a task and beginning its attempt",
        "_worker/slot.py",
        "                    await self._attempt(current)\n",
        "                    await trio.lowlevel.checkpoint()\n                    await self._attempt(current)\n",
    ),
    Mutation(
        "receive-checkpoints-late",
        2,
        "receive can be cancelled when it has taken a task already",
        "_backends/memory.py",
        "        await trio.lowlevel.cancel_shielded_checkpoint()\n        return task\n",
        "        await trio.lowlevel.checkpoint()\n        return task\n",
        ("memory", "cuts"),
    ),
    Mutation(
        "cancellation-is-not-heard",
        2,
        "a worker whose handlers do not wait goes on after a cancellation, for as long as there is more to take",
        "_worker/slot.py",
        "            self._context.intake_state.cancel()\n",
        "",
        ("cuts",),
    ),
    Mutation(
        "claims-outlive-the-worker",
        2,
        "run() returns while a task that was claimed in advance is still running in the store",
        "_backends/durable/storage.py",
        "        await self._loop.release_prefetched_now(self._queue)\n",
        "",
        ("cuts",),
    ),
    Mutation(
        "push-is-cut",
        2,
        "a push that is under way can be cancelled, and is stored all the same",
        "_backends/durable/exchange_loop.py",
        """            if request.is_under_way:
                return trio.lowlevel.Abort.FAILED
            self._pushes.remove(request)""",
        """            if not request.is_under_way:
                self._pushes.remove(request)""",
        ("sqlite", "cuts"),
    ),
    Mutation(
        "outermost-error",
        3,
        "errors are judged by the group, not by its leaves",
        "_tasks/outcome.py",
        "    parts = tuple(leaves(error))\n",
        "    parts = (error,)\n",
    ),
    Mutation(
        "retry-beats-abort",
        3,
        "a retry-after beats an abort",
        "_tasks/outcome.py",
        "    if any(is_a(each, AbortError) for each in parts):",
        "    if all(is_a(each, AbortError) for each in parts):",
    ),
    Mutation(
        "suspension-hides",
        3,
        "a suspension in a group hides what failed beside it",
        "_tasks/outcome.py",
        "        if len(suspensions) == len(parts):",
        "        if suspensions:",
    ),
    Mutation(
        "told-of-the-first-attempt",
        3,
        "a task tells when its first attempt began, not its latest",
        "_backends/sqlite/exchange.py",
        "worker = ?, started = ?,\n",
        "worker = ?, started = coalesce(started, ?),\n",
        ("times",),
    ),
    Mutation(
        "pages-by-priority-alone",
        2,
        "a page goes on at the next priority, without the rest of its own",
        "_backends/sqlite/search.py",
        'yield f"AND priority = ? AND (order_key, seq) {follows} (?, ?) {order}", (-priority, *others)',
        "pass",
        ("listing",),
    ),
    Mutation(
        "one-batch-of-many",
        2,
        "a change of many tasks ends after its first transaction",
        "_backends/sqlite/operations.py",
        "return Changed(ids, found.next, found.next is not None, taken)",
        "return Changed(ids, found.next, False, taken)",
        ("listing",),
    ),
    Mutation(
        "one-batch-of-several",
        2,
        "a change of several ids ends after its first transaction",
        "_contracts/bulk.py",
        "for start in range(0, max(1, len(distinct)), size):",
        "for start in range(0, 1, size):",
        ("several ids",),
    ),
    Mutation(
        "each-attempt-has-an-hour",
        3,
        "retry_for counts from the begin of each attempt",
        "_worker/slot.py",
        "        return before + trio.current_time() - self._began\n",
        "        return trio.current_time() - self._began\n",
        ("retry_for",),
    ),
    Mutation(
        "errors-of-processes-say-nothing",
        3,
        "an AbortError raised in a process loses its class when its reason cannot be pickled, and is retried",
        "_router/portable_errors.py",
        """        if value is self._form or not is_a(value, BaseException):
            return None
""",
        """        if True:
            return None
""",
        ("errors of processes",),
    ),
    Mutation(
        "greedy",
        4,
        "more is claimed than there are free slots",
        "_backends/durable/queue.py",
        "return max(0, len(self.receivers) + returning - len(self.prefetched))",
        "return max(0, len(self.receivers) + returning - len(self.prefetched) + 3)",
        ("sqlite", "file"),
    ),
    Mutation(
        "gates-are-not-asked",
        4,
        "a layer that is not ready does not hold intake back",
        "_worker/intake.py",
        "                await gate.ready()\n",
        "                await trio.lowlevel.checkpoint()\n",
    ),
    Mutation(
        "lent-for-ever",
        4,
        "a slot that was lent is not given back when its attempt goes on",
        "_worker/slot.py",
        "            self.lender.reclaim(self, self._task)\n",
        "            pass\n",
        ("memory", "lending"),
    ),
    Mutation(
        "extra-slots-stay",
        4,
        "an extra slot goes on taking tasks when the attempt in whose place it ran goes on",
        "_worker/slot.py",
        "        if slot in self._extras and self.has_surplus:\n            del self._extras[slot]\n",
        "",
        ("lending",),
    ),
    Mutation(
        "lent-without-bound",
        4,
        "more slots are lent than lend= allows",
        "_worker/slot.py",
        "min(len(self._lenders), self._lend)",
        "len(self._lenders)",
        ("lending",),
    ),
    Mutation(
        "intake-goes-on",
        5,
        "a shutdown does not stop intake",
        "_monitor.py",
        "        for context in self.contexts:\n            context.stop()\n",
        "        for context in self.contexts:\n            context.pause()\n",
    ),
    Mutation(
        "no-deadline",
        5,
        "the terminator never fires",
        "_monitor.py",
        "            self.cancel_scope.deadline = min(self.cancel_scope.deadline, deadline)\n",
        "            self.cancel_scope.deadline = max(self.cancel_scope.deadline, deadline)\n",
    ),
    Mutation(
        "idle-for-a-moment",
        5,
        "run_until_idle ends when a backend that is no storage gives nothing for a moment",
        "_worker/worker.py",
        "trio.current_time() + (0.0 if self._is_storage else _QUIET)",
        "trio.current_time()",
        ("idle",),
    ),
    Mutation(
        "idle-slots-stay",
        5,
        "slots that are too many stay until they have run one more attempt, after set_concurrency",
        "_worker/slot.py",
        "            if not slot.is_busy:\n                slot.retire()\n",
        "",
        ("slots",),
    ),
    Mutation(
        "exit-kills-the-worker",
        6,
        "SystemExit of a handler ends its worker",
        "_worker/slot.py",
        "        if error is not None and any(is_a(each, KeyboardInterrupt) for each in leaves(error)):",
        "        if error is not None and any(is_a(each, (KeyboardInterrupt, SystemExit)) for each in leaves(error)):",
    ),
    Mutation(
        "listener-kills-the-worker",
        6,
        "an error of a listener comes out of the worker",
        "_logging.py",
        "        log.error(self._message, *self._values, exc_info=error)\n        return True\n",
        "        return False\n",
    ),
    Mutation(
        "one-refused-row-fails-all",
        6,
        "one row that the store refuses fails all that travels with it",
        "_backends/durable/exchange_loop.py",
        "    if error.is_refusal and batch.size > 1:\n",
        "    if False:\n",
        ("refused rows",),
    ),
    Mutation(
        "a-refused-row-blocks-its-queue",
        6,
        "a row that SQLite does not let us change keeps the others of its queue from being claimed",
        "_backends/sqlite/exchange.py",
        "        self._refused[seq] = now + _REFUSED_FOR\n",
        "        raise error\n",
        ("refused rows",),
    ),
    Mutation(
        "attempt-counted-twice",
        7,
        "a retry counts two attempts",
        "_backends/ledger.py",
        "parts.attempt = attempt_number(parts.attempt + 1)",
        "parts.attempt = attempt_number(parts.attempt + 1 + (parts.attempt > 0))",
    ),
    Mutation(
        "interruption-costs",
        7,
        "an interruption costs an attempt",
        "_backends/ledger.py",
        "attempts_made = parts.attempt if isinstance(outcome, Retried) else parts.attempt - 1",
        "attempts_made = parts.attempt",
    ),
    Mutation(
        "suspension-costs",
        7,
        "a suspension costs an attempt",
        "_backends/ledger.py",
        "attempts_made = parts.attempt if isinstance(outcome, Retried) else parts.attempt - 1",
        "attempts_made = parts.attempt - isinstance(outcome, Released)",
    ),
    Mutation(
        "counter-left-behind",
        2,
        "a delayed task that becomes ready is still counted as delayed, in SQLite",
        "_backends/sqlite/task_table.py",
        """        self.set_ready(row.seq)
        self._count_ready(queue, row.state, row.suspended)
""",
        """        self.set_ready(row.seq)
""",
        ("sqlite", "model sqlite"),
    ),
    Mutation(
        "pause-is-forgotten",
        4,
        "a queue that is paused goes on giving out tasks, in SQLite",
        "_backends/sqlite/exchange.py",
        "WHERE queue = ? AND state = 0 AND NOT (SELECT paused FROM trio_tasks_queue WHERE num = ?)\n",
        "WHERE queue = ? AND state = 0 AND (SELECT 1 OR paused FROM trio_tasks_queue WHERE num = ?)\n",
        ("pausing",),
    ),
    Mutation(
        "metadata-is-set-once",
        12,
        "set_metadata changes nothing on a task that has metadata, in an SQLite file",
        "_backends/sqlite/operations.py",
        "SET options = ? WHERE seq = ? AND token = ? AND state = 2",
        "SET options = coalesce(options, ?) WHERE seq = ? AND token = ? AND state = 2",
        ("metadata",),
    ),
    Mutation(
        "whatever-is-found-is-new",
        12,
        "push_or_get says of each task that it is new, on stored storages",
        "_backends/durable/storage.py",
        "return stored_id(str(answer)), answer == row.id",
        "return stored_id(str(answer)), True",
        ("events",),
    ),
    Mutation(
        "import-counts-what-is-finished-as-waiting",
        2,
        "an imported task that is finished counts as one that waits, in an SQLite file",
        "_backends/sqlite/transfer.py",
        "        if state > State.RUNNING:\n            self._counters.count(queue, pushed=1,",
        "        if state > State.KILLED:\n            self._counters.count(queue, pushed=1,",
        ("transfer",),
    ),
    Mutation(
        "import-loses-the-history",
        12,
        "an imported task has no earlier attempts any more, in a journal",
        "_backends/file/transfer.py",
        "row.result, row.history, row.progress, row.worker = task.result, task.history,",
        "row.result, row.history, row.progress, row.worker = task.result, None,",
        ("transfer",),
    ),
    Mutation(
        "explanation-sees-those-behind",
        13,
        "explain counts the tasks of lower priority among those that go first, in SQLite",
        "_backends/sqlite/operations.py",
        "WHERE queue = ? AND state = 0 AND priority > ? AND {_UNEXPIRED} ORDER",
        "WHERE queue = ? AND state = 0 AND priority < ? AND {_UNEXPIRED} ORDER",
        ("explanations", "model sqlite"),
    ),
    Mutation(
        "suspension-without-a-reason",
        13,
        "the reason of a suspension is lost",
        "_backends/durable/rows.py",
        "worker=worker, reason=reason)\n",
        "worker=worker)\n",
        ("explanations",),
    ),
    Mutation(
        "interruption-costs-in-sqlite",
        7,
        "an interruption costs an attempt, in SQLite",
        "_backends/sqlite/task_table.py",
        "(State.WAITING, None, None, 1, None, None, None, None, None, *held)",
        "(State.WAITING, None, None, 0, None, None, None, None, None, *held)",
        ("sqlite",),
    ),
    Mutation(
        "suspension-costs-in-sqlite",
        7,
        "a suspension costs an attempt, in SQLite",
        "_backends/sqlite/task_table.py",
        "moved = state, due, order_key, each.kind in NOT_COUNTED",
        "moved = state, due, order_key, 0",
        ("sqlite",),
    ),
    Mutation(
        "suspension-costs-in-a-journal",
        7,
        "a suspension costs an attempt, in a journal",
        "_backends/file/exchange.py",
        "        elif settlement.kind == SettlementKind.SUSPENDED:\n            row.attempt -= 1\n",
        "        elif settlement.kind == SettlementKind.SUSPENDED:\n",
        ("file",),
    ),
    Mutation(
        "finished-tasks-keep-their-key",
        7,
        "a finished task keeps its unique key, in memory",
        "_backends/unique_keys.py",
        "            del self._holders[terms.unique]\n",
        "            pass\n",
        ("states",),
    ),
    Mutation(
        "keys-held-by-tasks-that-run",
        7,
        'a task keeps its unique key when it begins, with unique_until="start", in an SQLite file',
        "_backends/sqlite/exchange.py",
        "uniq = iif(uniq_until = 'start', NULL, uniq)",
        "uniq = uniq",
        ("states",),
    ),
    Mutation(
        "times-of-keys-end-with-the-task",
        7,
        "a unique key that is held for a time is free as soon as its task is forgotten, in a journal",
        "_backends/file/state.py",
        "        if timed is None or timed.end <= self.time:\n",
        "        if timed is None or timed.row_key not in self.rows:\n",
        ("states",),
    ),
    Mutation(
        "updated-in-its-old-place",
        7,
        'on_conflict="update" leaves a delayed task delayed, in an SQLite file',
        "_backends/sqlite/exchange.py",
        "        self.table.update_by_push(holder.seq, self._values(row, now), keeps_place=keeps_place)\n",
        "        row = row._replace(delay=1.0)\n"
        "        self.table.update_by_push(holder.seq, self._values(row, now), keeps_place=keeps_place)\n",
        ("states",),
    ),
    Mutation(
        "discarded-and-not-counted",
        7,
        "a waiting task that is discarded is not counted, in a journal",
        "_backends/file/operations.py",
        "                state.discard(row)\n",
        "                state.forget(row)\n",
        ("states",),
    ),
    Mutation(
        "cancelled-only-while-it-waits",
        7,
        "cancel with running=True leaves a running task alone, in an SQLite file",
        "_backends/sqlite/operations.py",
        "return (running and self.abort(queue, task_id)) or False",
        "return False",
        ("states",),
    ),
    Mutation(
        "resumed-with-its-old-attempts",
        7,
        "a dead letter that is resumed goes on counting its attempts, in an SQLite file",
        "_backends/sqlite/operations.py",
        "start_by = NULL, attempt = 0, order_key",
        "start_by = NULL, order_key",
        ("states",),
    ),
    Mutation(
        "killed-is-forgotten-in-a-journal",
        7,
        "a task that is cancelled or expires is forgotten at once, in a journal",
        "_backends/file/state.py",
        "self.finish(row, KILLED, KILLS, error, math.inf)",
        "self.finish(row, KILLED, KILLS, error, 0.0)",
        ("states",),
    ),
    Mutation(
        "retries-leave-no-trace",
        7,
        "an attempt that is retried is missing in the history of its task, in memory",
        "_backends/ledger.py",
        """        if isinstance(outcome, Retried):
            self._note_failure(parts, outcome)
        again""",
        "        again",
        ("memory", "model memory"),
    ),
    Mutation(
        "schedules-fire-for-everybody",
        7,
        "a time of a schedule is fired by each process that has not seen another one fire it, in SQLite",
        "_backends/sqlite/operations.py",
        "        if (found[0][0] if found else 0) != update.was:\n",
        "        if found and not update.was:\n",
        ("schedules",),
    ),
    Mutation(
        "schedules-fire-for-everybody-in-memory",
        7,
        "a change of a schedule is made by each process that knows of one, in memory",
        "_backends/memory_queue.py",
        "        if (known.revision if known is not None and not known.is_removed else 0) != change.was:\n",
        "        if known is not None and not known.is_removed and not change.was:\n",
        ("model memory",),
    ),
    Mutation(
        "what-could-not-be-fired-is-forgotten",
        13,
        "a schedule that was due while the store failed is not fired any more",
        "_schedules/scheduler.py",
        """                for live in waiting.values():
                    self._push(live)
""",
        "                waiting.clear()\n",
        ("schedules",),
    ),
    Mutation(
        "times-are-noted-before-they-are-fired",
        2,
        "a time of a schedule is noted as fired in a transaction before the one that pushes its task",
        "_schedules/scheduler.py",
        "            results = await storage.set_schedules([change for _, change in several])\n",
        """            noted = await storage.set_schedules([change._replace(tasks=()) for _, change in several])
            several = [
                (live, change._replace(was=result.revision))
                for (live, change), result in zip(several, noted, strict=True)
            ]
            results = await storage.set_schedules([change for _, change in several])
""",
        ("schedule seeds",),
    ),
    Mutation(
        "each-process-has-its-own-jitter",
        9,
        "the jitter of a schedule differs between processes",
        "_schedules/scheduler.py",
        'digest = blake2b(f"{name} {time}".encode(',
        'digest = blake2b(f"{hash(name)} {time}".encode(',
        ("schedules",),
    ),
    Mutation(
        "paused-schedules-are-fired",
        12,
        "a schedule that is paused is fired all the same",
        "_schedules/scheduler.py",
        "        if schedule.is_paused:\n            return\n",
        "",
        ("schedules",),
    ),
    Mutation(
        "a-clock-set-back-fires-again",
        9,
        "a schedule that is edited after the clock was set back fires times again",
        "_schedules/schedules.py",
        "    done = known.done if known.times == new.times else max(known.done, new.done)\n",
        "    done = known.done if known.times == new.times else new.done\n",
        ("schedules",),
    ),
    Mutation(
        "a-rolling-deploy-orphans-schedules",
        14,
        "a schedule is orphaned while a program still runs in whose code it stands",
        "_schedules/scheduler.py",
        "is_known == (moment is None)",
        "is_known or moment is not None",
        ("schedules",),
    ),
    Mutation(
        "lease-ends-with-intake",
        8,
        "leases are not renewed while a worker drains",
        "_worker/worker.py",
        "        while True:\n            if at_work is not None",
        "        while not context.intake_state.closed:\n            if at_work is not None",
        ("sqlite", "file"),
    ),
    Mutation(
        "no-fencing-in-sqlite",
        8,
        "a settlement counts under any claim, in SQLite",
        "_backends/sqlite/task_table.py",
        'HELD = "WHERE seq = ? AND token = ? AND state = 2"',
        'HELD = "WHERE seq = ? AND token >= ? AND state = 2"',
        ("sqlite",),
    ),
    Mutation(
        "lost-lease-unheard",
        8,
        "a worker that has lost a lease goes on with the attempt",
        "_backends/durable/queue.py",
        'parts.holder.revoke(Released("its lease was lost"))',
        "parts.holder.current_line()",
        ("sqlite", "file"),
    ),
    Mutation(
        "own-leases-are-taken",
        8,
        "a claim takes the expired leases of its own process",
        "_backends/durable/exchange_loop.py",
        "for queue, late in self.late_leases(now)",
        "for queue, late in ()",
        ("sqlite", "file"),
    ),
    Mutation(
        "orphans-stay-away",
        8,
        "a task whose worker has died does not come back",
        "_backends/sqlite/exchange.py",
        "        if row.state == State.RUNNING:\n            self.table.take_back(queue, row, now)\n",
        "        if row.state == State.RUNNING:\n            return\n",
        ("sqlite",),
    ),
    Mutation(
        "machine-time",
        9,
        "a retry waits by the machine's clock, not by trio's",
        "_backends/memory_queue.py",
        "self.ledger.settle(task, outcome, 0.0 if type(outcome) is Succeeded else trio.current_time())",
        "self.ledger.settle(task, outcome, __import__('time').monotonic())",
    ),
    Mutation(
        "moments-are-delays",
        9,
        "a run_at is a delay from the push on, by the store's clock, wherever the wall clock is set",
        "_backends/durable/rows.py",
        "    by_wall_clock = run_at is not None and not terms.delay and uses_wall_clock()\n",
        "    by_wall_clock = False\n",
        ("run_at",),
    ),
    Mutation(
        "thread-is-abandoned",
        10,
        "the slot of a sync handler is free while its thread still runs",
        "_handlers/adapter.py",
        "abandon_on_cancel=False",
        "abandon_on_cancel=True",
    ),
    Mutation(
        "errors-are-swallowed",
        11,
        "the error of a worker that is not restarted does not come out of the monitor",
        "_monitor.py",
        "                    raise group\n",
        "                    return\n",
    ),
    Mutation(
        "restarted-without-end",
        11,
        "a worker is restarted whatever the policy says",
        "_monitor.py",
        "return bool(policy.should_restart(context, error, attempt))",
        "return bool(policy.should_restart(context, error, attempt)) or True",
    ),
    Mutation(
        "listeners-replace",
        11,
        "a listener that is added to a monitor replaces those of its workers",
        "_monitor.py",
        "            context.listeners += listeners\n",
        "            context.listeners = listeners\n",
    ),
    Mutation(
        "workers-do-not-answer",
        11,
        "a worker of another process that is asked for its state does not answer",
        "_backends/sqlite/wakeup.py",
        "                self._is_asked = received == self.key + _ASKS or self._is_asked\n",
        "",
        ("workers",),
    ),
    Mutation(
        "workers-forget-a-task",
        13,
        "a worker does not tell of the task that it began first",
        "_contracts/worker_info.py",
        "islice(context.running_tasks, MOST_RUNNING)",
        "islice(context.running_tasks, 1, MOST_RUNNING)",
        ("memory", "sqlite"),
    ),
    Mutation(
        "the-dead-are-alive",
        13,
        "a worker whose process has died is listed as alive until its session expires, in SQLite",
        "_backends/sqlite/session.py",
        "each._replace(is_alive=False) if address in gone else each for each, address in found",
        "each for each, address in found",
        ("workers",),
    ),
    Mutation(
        "explanation-of-what-runs",
        13,
        "explain takes a running task for one that waits for its time, if its lease has an end",
        "_contracts/explanation.py",
        "    if status is not Status.Pending:\n",
        "    if status is not Status.Pending and evidence.due is None:\n",
        ("sqlite",),
    ),
    Mutation(
        "resumption-wakes-nobody",
        13,
        "a queue that is resumed is noticed by other processes only when they poll, in SQLite",
        "_backends/sqlite/engine.py",
        "        await self._write(Operations.set_paused, queue, paused)\n"
        "        await self._call(self._session.wake_others, self.now())\n",
        "        await self._write(Operations.set_paused, queue, paused)\n",
        ("pausing",),
    ),
    Mutation(
        "known-ids-are-taken",
        12,
        "a finished task's id can be pushed again",
        "_backends/ledger.py",
        "if task_id in self._live or task_id in self._dead or task_id in self._done:",
        "if task_id in self._live:",
        ("memory", "model memory"),
    ),
    Mutation(
        "closed-is-open",
        12,
        "a storage that is closed takes more",
        "_backends/durable/storage.py",
        "-> NewRow:\n        if self._closed:\n            self._check_open()",
        "-> NewRow:\n        if self._loop.closed:\n            self._check_open()",
        ("sqlite", "model sqlite"),
    ),
    Mutation(
        "bulk-is-half-stored",
        12,
        "of a bulk, what does not fit the type is found when its turn comes, in memory",
        "_backends/memory.py",
        """        if not self._takes_as_it_is:
            tasks = [self._prepare(task) for task in tasks]
        for number, task in enumerate(tasks, start=1):
            try:
                try:
                    ids.append(self._push_prepared(task))
""",
        """        for number, task in enumerate(tasks, start=1):
            try:
                try:
                    ids.append(self.push_task_nowait(task))
""",
        ("promise 12",),
    ),
    Mutation(
        "nobody-looks-for-the-journal",
        12,
        "a push is acknowledged though the journal was deleted, moved or replaced",
        "_backends/file/journal.py",
        "        if not is_there:\n            self.is_broken = True\n",
        "        if False:\n            self.is_broken = True\n",
        ("files",),
    ),
    Mutation(
        "adopted-before-it-is-in-place",
        12,
        "a shorter journal is written to before it has replaced the old one",
        "_backends/file/transactions.py",
        """        await self._in_thread(compaction.replace, old)
        self._journal, self._compaction = compaction.journal, None
""",
        """        self._journal, self._compaction = compaction.journal, None
        await self._in_thread(compaction.replace, old)
""",
        ("files",),
    ),
    Mutation(
        "the-lock-is-a-name",
        12,
        "a journal is locked by a file beside it, and not itself",
        "_backends/file/journal.py",
        "        lock_itself(fd, path)\n        with os.fdopen",
        "        with os.fdopen",
        ("files",),
    ),
    Mutation(
        "retries-are-silent",
        13,
        "an attempt that is followed by another one leaves no record in the log",
        "_contracts/attempt_log.py",
        "        if isinstance(outcome, (Retried, Failed, Killed)):\n            seconds, level",
        "        if isinstance(outcome, (Failed, Killed)):\n            seconds, level",
        (),
    ),
    Mutation(
        "stalls-are-silent-across-queues",
        13,
        "workers of two queues that wait for one another are taken for working, and the log does not name the stall",
        "_contracts/lending.py",
        "slot.attempted in ids and slot.waits_for is None for slot",
        "slot.attempted in ids for slot",
        ("lending",),
    ),
    Mutation(
        "found-is-told-as-pushed",
        13,
        "a push that finds the task of its unique key is told as a new task, in memory",
        "_backends/memory_queue.py",
        """        if self.events.open and task_id == task.parts.id:
            self.events.tell(Pushed(task_id, True))
        if self._receivers:
""",
        """        if self.events.open:
            self.events.tell(Pushed(task_id, True))
        if self._receivers:
""",
        ("memory",),
    ),
    Mutation(
        "rolled-back-is-told",
        13,
        "of a transaction that was rolled back, the replaced tasks are told all the same, on an SQLite file",
        "_backends/sqlite/session.py",
        "            self._sql.table.roll_back()\n",
        "            pass\n",
        ("events",),
    ),
    Mutation(
        "a-closed-queue-tells-no-more",
        13,
        "a push that is under way when its queue is closed is not told",
        "_backends/durable/storage.py",
        "        self._queue.handles -= 1\n        self._loop.check_queues()\n",
        "        self._queue.handles -= 1\n        self._queue.events.end()\n        self._loop.check_queues()\n",
        ("file",),
    ),
    Mutation(
        "sums-of-errors-are-lost",
        13,
        "attempts that were retried are not added up, on a stored storage",
        "_backends/durable/exchange_loop.py",
        "                    queue.tally.add(parts.terms.name, settlement.kind, now - started, waited, now)\n",
        "                    pass\n",
        ("file",),
    ),
    Mutation(
        "one-minute-for-all",
        13,
        "attempts of several minutes that are added up together count for the last one",
        "_contracts/minutes.py",
        " and min(ended) // 60 == latest // 60:  # as a rule",
        ":",
        ("throughput",),
    ),
    Mutation(
        "unknown-names-fail",
        14,
        "a task of a name that no function of the program has is a dead letter at once",
        "_router/routes.py",
        '        if self._unknown == "fail":\n',
        '        if self._unknown in ("fail", "suspend"):\n',
        ("versions",),
    ),
]
