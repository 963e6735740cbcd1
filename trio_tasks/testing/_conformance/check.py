"""The entry points of the conformance kit, a function for a program and a class for pytest; and the runner of rules.

Each rule is checked on a newly opened handle, within a time limit.
"""

from __future__ import annotations

import os
import sys
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, final
from unittest import SkipTest

import trio

from ..._checks import check_seconds, check_several
from ..._contracts.backend import FetchById
from ..._tasks.outcome import Succeeded
from ..._tasks.task_info import StoredTaskInfo
from . import (
    rules_cancellation as _rules_cancellation,
    rules_changing as _rules_changing,
    rules_closing as _rules_closing,
    rules_deadlines as _rules_deadlines,
    rules_engine as _rules_engine,
    rules_facts as _rules_facts,
    rules_leases as _rules_leases,
    rules_limits as _rules_limits,
    rules_order as _rules_order,
    rules_outcomes as _rules_outcomes,
    rules_pushing as _rules_pushing,
    rules_reading as _rules_reading,
    rules_workers as _rules_workers,
)
from .harness import BackendOpener, Harness
from .rule import Rule, RuleBroken, as_rule_broken, rules_of

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from ..._tasks.task import Parts

_TOPICS = (
    _rules_pushing,
    _rules_order,
    _rules_deadlines,
    _rules_outcomes,
    _rules_leases,
    _rules_closing,
    _rules_cancellation,
    _rules_workers,
    _rules_reading,
    _rules_facts,
    _rules_changing,
    _rules_limits,
    _rules_engine,
)

RULES: dict[str, Rule] = {rule.name: rule for topic in _TOPICS for rule in rules_of(topic.__name__)}
"""Each rule by its name."""

_LEFT_OUT = "left out on request"
_TRIO = str(Path(trio.__file__).parent) + os.sep
_HERE = str(Path(__file__).parent) + os.sep


@final
@dataclass(frozen=True, slots=True)
class Conformance:
    """The result of a check: the rules that hold, and those that do not apply."""

    backend: str
    """The name of the backend."""
    passed: tuple[str, ...]
    """The names of the rules that hold."""
    skipped: Mapping[str, str]
    """The names of the rules that were not tried, each with the reason."""

    def __str__(self) -> str:
        lines = [f"{self.backend} passes {len(self.passed)} rules; {len(self.skipped)} do not apply:"]
        for reason in dict.fromkeys(self.skipped.values()):
            names = [name for name, each in self.skipped.items() if each == reason]
            lines.append(f"  {reason}: {', '.join(names)}")
        return "\n".join(lines)


async def check_backend(
    open_backend: Callable[[], Any],
    *,
    args: Callable[[int], Any] = int,
    only: Iterable[str] | None = None,
    skip: Iterable[str] = (),
    time_limit: float = 60.0,
) -> Conformance:
    """Check a backend against all rules that apply to it, and return the names of the rules that hold.

    >>> print(await check_backend(lambda: MyStorage("test.db", lease=1.0)))
    MyStorage passes 64 rules; 9 do not apply: ...

    All tasks in the store are killed and forgotten: use a store of its own. Rules about a capability are tried if the
    backend claims it, those about leases if it has one, in seconds, as its ``lease``; so open it with a short one.
    Under an autojumping ``MockClock``, a backend that reads another clock than trio's needs a threshold of 0.05.

    Args:
      open_backend: a function without parameters that is called for each handle. It returns a backend, an awaitable of
          one, or a context manager, async or not, that gives one. If the store outlives a handle, each call must open
          the same store; a call may raise while another handle is open. The backend must be a
          :class:`~trio_tasks.TaskSink` too.
      args: a function that makes args from a number: different args from different numbers, equal ones from equal
          numbers.
      only: the names of the rules to check; by default all.
      skip: the names of rules that are not checked.
      time_limit: the seconds on trio's clock that each rule may take; a rule that takes longer is broken.

    Raises:
      ExceptionGroup: some rules do not hold. There is one error for each, an ``AssertionError`` which names the promise
          and the rule, what was seen and what was expected.
      TypeError, ValueError: an argument is wrong; the message says what would be right.

    If it is cancelled, the handle is closed.
    """
    chosen = _chosen(only, skip)
    trial = RuleRunner(BackendOpener(open_backend, args), check_seconds(time_limit, "time_limit", positive=True))
    broken: list[RuleBroken] = []
    passed: list[str] = []
    skipped = dict.fromkeys((name for name in RULES if name not in chosen), _LEFT_OUT)
    name = "the backend"
    try:
        name = await trial.probe()
    except RuleBroken as error:
        raise ExceptionGroup("the backend cannot be checked", [error]) from None
    for each in chosen:
        try:
            reason = await trial.run(RULES[each])
        except RuleBroken as error:
            broken.append(error)
            continue
        if reason is None:
            passed.append(each)
        else:
            skipped[each] = reason
    if broken:
        tried = len(broken) + len(passed)
        raise ExceptionGroup(f"{name} breaks {len(broken)} of the {tried} rules that were tried", broken)
    return Conformance(name, tuple(passed), MappingProxyType(skipped))


def _chosen(only: Iterable[str] | None, skip: Iterable[str]) -> list[str]:
    """The names of the rules to be checked, in the order of ``RULES``."""
    wanted = list(RULES) if only is None else check_several(only, "only", "names of rules")
    unwanted = check_several(skip, "skip", "names of rules")
    for name in (*wanted, *unwanted):
        if name not in RULES:
            raise ValueError(f"no rule is called {name!r}; the rules are {', '.join(RULES)}")
    return [name for name in RULES if name in wanted and name not in unwanted]


class BackendConformance:
    """A base class for pytest: a subclass has one test for each rule, called ``test_`` and the rule's name.

    The subclass defines the fixture ``open_backend``, whose value is what :func:`check_backend` takes; it need not be
    a fixture of pytest-trio, since each test is a trio program of its own. A rule that does not apply is a test that is
    skipped, with the reason. To leave a rule out, set its test to None.
    """

    time_limit = 60.0
    """Seconds that each rule may take."""

    def args(self, number: int) -> Any:
        """Make args of this number: different args for different numbers; by default the number itself."""
        return number

    def clock(self) -> trio.abc.Clock | None:
        """Return the clock for each test; None, the default, is trio's own clock."""
        return None

    def _try(self, rule: Rule, open_backend: Callable[[], Any]) -> None:
        async def main() -> str | None:
            trial = RuleRunner(BackendOpener(open_backend, self.args), self.time_limit)
            await trial.probe()
            return await trial.run(rule)

        reason = trio.run(main, clock=self.clock())
        if reason is not None:
            raise SkipTest(reason)  # pytest skips on unittest's exception too, so pytest is not imported


def _as_test(rule: Rule) -> Callable[[BackendConformance, Any], None]:
    def test(self: BackendConformance, open_backend: Any) -> None:
        self._try(rule, open_backend)  # pyright: ignore[reportPrivateUsage]  it is a method of that class

    test.__name__ = f"test_{rule.name}"
    test.__qualname__ = f"BackendConformance.{test.__name__}"
    test.__doc__ = rule.sentence
    return test


for _rule in RULES.values():
    setattr(BackendConformance, f"test_{_rule.name}", _as_test(_rule))


@final
class RuleRunner:
    """Checks rules on one backend.

    Args:
      opener: the opener of the backend.
      time_limit: the seconds that each rule may take.
    """

    def __init__(self, opener: BackendOpener, time_limit: float) -> None:
        self._opener = opener
        self._time_limit = time_limit

    async def probe(self) -> str:
        """Find out whether a second handle finds the same store, and whether both may be open at once; return the
        backend's name.

        Raises:
          RuleBroken: not even that can be done.
        """
        rule = Rule(
            "the_backend_can_be_opened",
            2,
            "A backend can be opened twice by open_backend, and pushed into.",
            (),
            _nothing,
        )
        name = ""
        opener = self._opener

        async def check(harness: Harness) -> None:
            nonlocal name
            name = type(harness.backend).__name__
            task_id = await harness.push(0)
            shown = await _shown(harness.backend, task_id)
            opener.shows_info = shown is not None and isinstance(shown.context, StoredTaskInfo)
            opener.shows_times = shown is not None and shown.pushed is not None
            async with AsyncExitStack() as stack:
                try:
                    other = await stack.enter_async_context(opener.handle())
                except Exception:
                    other = None  # the store may allow only one handle: close the first one before
                else:
                    opener.is_lasting = opener.is_shared = await _has(harness, other, task_id)
            if other is None:
                await harness.restart()
                opener.is_lasting = await _has(harness, harness.backend, task_id)

        await self._run_limited(rule, check)
        return name

    async def run(self, rule: Rule) -> str | None:  # noqa: ASYNC910  opening is a checkpoint
        """Check a rule; return the reason why it was skipped, or None if it holds.

        Raises:
          RuleBroken: it does not.
        """
        reason: str | None = None

        async def check(harness: Harness) -> None:  # noqa: ASYNC910  what it is called in has some
            nonlocal reason
            reason = next(filter(None, map(harness.missing, rule.needs)), None)
            if reason is None:
                await rule.check(harness)

        await self._run_limited(rule, check)
        return reason

    async def _run_limited(self, rule: Rule, check: Any) -> None:  # noqa: ASYNC910  so is leaving the nursery
        places: list[str] = []
        broken: RuleBroken | None = None
        trio_task = trio.lowlevel.current_task()
        scope = trio.CancelScope()
        try:
            async with trio.open_nursery() as nursery:
                harness = Harness(self._opener, nursery)
                with harness.limit(self._time_limit, lambda: places.append(_where(trio_task))) as scope:
                    async with harness.opened():
                        await check(harness)
                nursery.cancel_scope.cancel()
        except Exception as error:
            broken = as_rule_broken(error, rule)
        if places and (broken is None or scope.cancelled_caught):
            broken = RuleBroken(
                "the check of the rule", f"no end after {self._time_limit:g} s, stuck {places[0]}", "an end"
            )
            broken.rule = rule
        if broken is not None:
            raise broken


async def _nothing(harness: Harness) -> None:
    await trio.lowlevel.checkpoint()


async def _has(harness: Harness, backend: Any, task_id: str) -> bool:
    """Return True if the task is found through this handle."""
    if isinstance(backend, FetchById):
        return await backend.fetch_by_id(task_id) is not None
    with harness.limit(0.5):
        task = await backend.receive()
        await backend.settle(task, Succeeded(None))
        return bool(task.parts.id == task_id)
    return False


async def _shown(backend: Any, task_id: str) -> Parts | None:
    """The parts of a task that is looked up; None if none can be."""
    if not isinstance(backend, FetchById):
        await trio.lowlevel.checkpoint()
        return None
    task = await backend.fetch_by_id(task_id)
    return None if task is None else task.parts


def _where(trio_task: trio.lowlevel.Task) -> str:
    """Describe where a check hangs: the line of the rule, and the innermost line that is not of trio."""
    lines: list[str] = []
    tasks = [trio_task]
    while tasks:
        frames = [each for each in tasks.pop(0).iter_await_frames() if not each[0].f_code.co_filename.startswith(_TRIO)]
        for nursery in trio_task.child_nurseries if not lines else ():
            tasks += [each for each in nursery.child_tasks if not each.name.endswith("watch")]
        ours = [each for each in frames if each[0].f_code.co_filename.startswith(_HERE + "rules")]
        for frame, line in dict.fromkeys([*ours[-1:], *frames[-1:]]):
            code = frame.f_code
            lines.append(f"at {code.co_filename}:{line} in {code.co_name}")
    return ", ".join(dict.fromkeys(lines[-3:])) or "at an unknown place"
