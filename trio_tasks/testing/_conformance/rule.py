"""Rules: a rule is one sentence about every backend, which belongs to a promise, and a function that checks it."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, final

from ..._concurrency.exception_groups import is_a, leaves

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator
    from typing import Any, TypeAlias

    RuleCheck: TypeAlias = Callable[[Any], Coroutine[Any, Any, None]]


@final
class Feature(Enum):
    """Something besides capabilities that a rule needs; the value says what a backend without it lacks."""

    LEASE = "has no lease, in seconds, as its `lease`"
    CLOSE = "has no close()"
    LASTING = "has a store that does not outlive a handle"
    WORKABLE = "has no heartbeat_interval to keep its lease by"
    SHARE = "has no share()"
    ENGINE = "does not stand on an engine"
    TIMES = "does not tell when a task was pushed"
    INFO = "shows no StoredTaskInfo with a task that is looked up"


@final
@dataclass(frozen=True, slots=True)
class Rule:
    """A rule about backends, and the function that checks it.

    Args:
      name: the name by which a rule is chosen.
      promise: the number of the promise that it belongs to.
      sentence: the sentence that says what every backend must do.
      needs: the capabilities and features without which it is skipped.
      check: the function that checks it; it raises :class:`RuleBroken` if the rule does not hold.
    """

    name: str
    promise: int
    sentence: str
    needs: tuple[type | Feature, ...]
    check: RuleCheck

    def __str__(self) -> str:
        return self.name


@final
class RuleBroken(AssertionError):
    """An error: a backend does not keep a rule.

    Attributes:
      rule: the rule; None until the kit has filled it in.
      seen: the value or behaviour that was seen.
      expected: the value or behaviour that the rule expects.
    """

    def __init__(self, what: str, seen: object, expected: object) -> None:
        super().__init__(what, seen, expected)
        self.rule: Rule | None = None
        self.what = what
        self.seen = seen if isinstance(seen, str) else _short(seen)
        self.expected = expected if isinstance(expected, str) else _short(expected)

    def __str__(self) -> str:
        head = f"promise {self.rule.promise}, {self.rule.name}: {self.rule.sentence} " if self.rule else ""
        return f"{head}Checked: {self.what}. Seen: {self.seen}. Expected: {self.expected}."


def expect(what: str, seen: object, expected: object) -> None:
    """Raise :class:`RuleBroken` unless ``seen`` equals ``expected``."""
    if seen != expected:
        raise RuleBroken(what, _short(seen), _short(expected))


def expect_that(what: str, holds: bool, seen: object, expected: object) -> None:
    """Raise :class:`RuleBroken` unless ``holds`` is true."""
    if not holds:
        raise RuleBroken(what, seen, expected)


@contextmanager
def refused(what: str, *kinds: type[Exception]) -> Generator[None, None, None]:
    """Check that the block raises one of these errors; anything else breaks the rule."""
    names = " or ".join(kind.__name__ for kind in kinds)
    try:
        yield
    except Exception as error:
        if not isinstance(error, kinds):
            raise RuleBroken(what, f"the error {_short(error)}", names) from error
        return
    raise RuleBroken(what, "no error", names)


def as_rule_broken(error: Exception, rule: Rule) -> RuleBroken:
    """Turn the error of a check into a RuleBroken; of a group, take the first RuleBroken that is in it."""
    known = [each for each in leaves(error) if is_a(each, RuleBroken)]
    broken = known[0] if known else RuleBroken("the rule's check", f"the error {_told(error)}", "none")
    if not known:
        several = [*leaves(error)]
        broken.__cause__ = several[0] if len(several) == 1 else error
    broken.rule = rule
    return broken


def _told(error: Exception) -> str:
    return ", ".join(_short(each) for each in leaves(error))


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 300 else f"{text[:150]} … {text[-150:]}"


_REGISTER: dict[str, list[Rule]] = {}


def rule(promise: int, *needs: type | Feature) -> Callable[[RuleCheck], RuleCheck]:
    """Register the decorated function as a rule, named after the function, with the docstring as its sentence."""

    def register(check: RuleCheck) -> RuleCheck:
        name: str = check.__name__
        sentence = " ".join((check.__doc__ or "").split())
        _REGISTER.setdefault(check.__module__, []).append(Rule(name, promise, sentence, needs, check))
        return check

    return register


def rules_of(module: str) -> list[Rule]:
    """The rules of a module, in the order in which they are defined."""
    return _REGISTER[module]
