"""The entry points of the conformance kit: a function for a program, and a class for pytest."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, final
from unittest import SkipTest

import trio

from ..._checks import check_seconds, check_several
from .opening import BackendOpener
from .rule import Rule, RuleBroken
from .rules import RULES
from .runner import RuleRunner

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

_LEFT_OUT = "left out on request"


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
      open_backend: called without arguments for each handle: returns a backend, an awaitable of one, or a context
          manager, async or not, that gives one. If its store outlives a handle, each call must open the same store; it
          may raise while another handle is open. What it opens must be a :class:`~trio_tasks.TaskSink` too.
      args: makes args of a number: different ones of different numbers, and equal ones of equal numbers.
      only: names of rules: no others are tried.
      skip: names of rules that are not tried.
      time_limit: seconds on trio's clock that each rule may take; one that takes longer is broken.

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
