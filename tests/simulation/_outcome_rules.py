"""Rules about the outcome of an attempt: which ones are allowed after the errors and calls that it has met."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trio_tasks import (
    AbortError,
    DeferredError,
    Failed,
    Killed,
    Outcome,
    Released,
    Retried,
    RetryAfterError,
    Succeeded,
    SuspendError,
    Task,
    Worker,
    WorkerContext,
)
from trio_tasks._concurrency.exception_groups import leaves

from tests.simulation._deadline_rules import is_late

if TYPE_CHECKING:
    from tests.simulation._claim import Claim
    from tests.simulation._claim_checker import ClaimChecker

_CLOSE = 1e-9  # seconds


def check_error_outcome(
    checker: ClaimChecker, context: WorkerContext, task: Task[Any], outcome: Retried | Failed | Killed
) -> None:
    """An error is judged by what is in it, however it is wrapped up: abort beats retry-after, the longest of which
    wins; that beats deferred, and that beats the policy."""
    if is_late(checker, task, outcome):
        return
    parts, worker = task.parts, context.recipe
    assert isinstance(worker, Worker)
    policy = worker.retry
    errors = [each for each in leaves(outcome.error) if not isinstance(each, SuspendError)]
    if not errors:
        checker.fault(f"{parts.id} is {outcome}, though all that was raised has suspended it")
    attempts = policy.attempts if parts.terms.attempts is None else parts.terms.attempts
    delays = [each.delay for each in errors if isinstance(each, RetryAfterError)]
    after = 0.0
    kind: type[Outcome] = Retried
    if parts.unfit is not None and not isinstance(parts.unfit, AbortError):  # nor was it aborted before it began
        kind = Failed
    elif any(isinstance(each, AbortError) for each in errors):
        kind = Killed
    elif parts.attempt >= attempts:
        kind = Failed
    elif delays:
        after = max(delays)
    elif not any(isinstance(each, DeferredError) for each in errors):
        after = policy.backoff(parts.attempt)  # these have no jitter
    if type(outcome) is not kind or (isinstance(outcome, Retried) and abs(outcome.after - after) > _CLOSE):
        checker.fault(
            f"{parts.id} in attempt {parts.attempt} of {attempts} is {outcome}, not {kind.__name__}, {after:g}"
        )


def check_interruption(checker: ClaimChecker, task: Task[Any], claim: Claim, outcome: Outcome) -> None:
    """An attempt that was cut is released, unless it was aborted; and no other is."""
    parts = task.parts
    if claim in checker.aborted:
        if not checker.has_leases and parts.id not in checker.lost and isinstance(outcome, (Retried, Failed)):
            checker.fault(f"{parts.id} was aborted, and is settled as {outcome}")
    elif outcome == Released("cancelled") and parts not in checker.cancelled | checker.may_be_cancelled:
        checker.fault(f"{parts.id} is released, but was not interrupted")
    elif (
        parts in checker.cancelled - checker.may_be_cancelled
        and not isinstance(outcome, (Released, Succeeded))
        and parts.terms.timeout is None
        and parts.deadline is None
    ):
        if not (isinstance(outcome, Killed) and parts.id in checker.to_abort):
            checker.fault(f"{parts.id} was interrupted, and is settled as {outcome}")
