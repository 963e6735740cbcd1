"""A layer that limits how many attempts begin within a period of time.

Think of ``n`` tokens. A token is *free*; then it is *reserved*, for a task that a worker has received; then it is
*used*, as the attempt arrives at the layer, and from that moment on it *cools down* for ``per`` seconds, until it is
free again. One token therefore never serves two attempts less than ``per`` seconds apart, and that is the promise: no
stretch of ``per`` seconds, wherever it begins, sees more than ``n`` of them begin.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, final

import trio

from .._checks import check_count, check_plain, check_seconds
from .._printing import quoted
from ._capacity_queue import OPEN, UNKNOWN, CapacityQueue
from ._suspended_line import suspension

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._contracts.layer import Handler
    from .._tasks.task import Parts, Task

A = TypeVar("A")
R = TypeVar("R")


@final
@dataclass(frozen=True, slots=True)
class RateLimitStatistics:
    """The counts of a rate limit at one moment.

    Of its ``limit`` tokens some are ``free``, some ``reserved`` for admitted tasks, and some ``cooling``: used, and not
    free again yet. ``waiting`` is the number of trio tasks that wait for a token.

    With a key, ``limit`` is for each of the ``keys`` that are remembered, and the others are sums over them.
    """

    limit: int
    per: float
    free: int
    reserved: int
    cooling: int
    waiting: int
    keys: tuple[Hashable, ...] = ()


@final
class _Tokens:
    """The tokens of one key, and the queue of trio tasks that wait for one. They may be dropped once all are
    free and no call (``callers``) waits for one.
    """

    __slots__ = ("_clock", "_cooling", "_limit", "_per", "_promised", "callers", "key", "line", "reserved")

    def __init__(self, key: Hashable, limit: int, per: float) -> None:
        self.key = key
        self.reserved = 0
        self.callers = 0
        self.line = CapacityQueue(lambda: self.opens_at)
        self._limit = limit
        self._per = per
        self._cooling: deque[float] = deque()  # the time at which each used token is free again
        self._promised: deque[float] = deque(
            maxlen=limit
        )  # moments at which suspended tasks may begin, the latest ones
        self._clock: trio.abc.Clock | None = None

    @property
    def cooling(self) -> int:
        """The number of used tokens that are not free again yet."""
        self._cool_down()
        return len(self._cooling)

    @property
    def free(self) -> int:
        """The number of tokens that are free now."""
        return self._limit - self.reserved - self.cooling

    @property
    def is_idle(self) -> bool:
        """True if these tokens hold no state, so that they can be dropped."""
        return not (self.reserved or self.callers or self.cooling or self._promised)

    def _cool_down(self) -> None:
        """Free the tokens whose period is over. Times of an earlier ``trio.run``, which had another clock, do
        not count.
        """
        clock = trio.lowlevel.current_clock()
        if clock is not self._clock:
            self._clock = clock
            self._cooling.clear()
            self._promised.clear()
        now = trio.current_time()
        for times in (self._cooling, self._promised):
            while times and times[0] <= now:
                times.popleft()

    @property
    def opens_at(self) -> float:
        """The time at which the next token is free."""
        if self.free > 0:
            return OPEN
        return self._cooling[0] if self._cooling else UNKNOWN

    def put_off(self) -> float:
        """Return when a task may begin that finds no token free. Each task gets another moment, as the rate allows, so
        that they do not all come back at once.
        """
        wanted = self._limit - len(self._promised)  # the number of used tokens that must be free before the task begins
        if wanted <= 0:
            moment = self._promised[0] + self._per
        elif wanted <= self.reserved:
            moment = trio.current_time() + self._per
        else:
            moment = self._cooling[self.reserved - wanted]
        self._promised.append(moment)
        return moment

    def use(self) -> None:
        """Use a free token, for an attempt that begins now."""
        self._cooling.append(trio.current_time() + self._per)
        self.line.wake_first()  # the first in the queue may wait without a deadline: now there is one


@final
class RateLimit:
    """Begin at most ``n`` attempts in any ``per`` seconds, over all workers that are given the same object.

    >>> RateLimit(100, per=60)
    >>> by_tenant = RateLimit(5, per=1, key=lambda task: task.parts.metadata["tenant"])

    Args:
      n: the number of attempts in each period; all of them may begin at once. With a ``key``, the number for each key.
      per: the period in seconds, more than 0.
      key: a function from a task to any hashable value. If it raises, the attempt fails with that error.

    Without a key, a worker receives only while a token is free: all other tasks stay in the backend. Waiting callers
    are served in the order in which they came, and sleep until the moment at which the next token is free. An idle
    worker reserves no token. Each call counts, also when an outer layer calls again within one attempt, as
    :class:`Retry` does; then the further calls wait inside, and hold the slot.

    With a key, it is not known whether there is a token before the task is there. So intake is not held back. A task of
    a worker whose key has no token is suspended until the moment at which it may begin: it waits in the backend, holds
    no slot, and it costs no attempt. Only a further call within an attempt waits inside, and a call without a worker.
    A key is forgotten when ``per`` seconds have passed since its last attempt began; the memory is that of the keys
    used in that time.

    If it is cancelled while it waits, it has used nothing. An attempt that has begun keeps its token used, however it
    ends; one that was received but never arrived here gives it back.

    It counts in this process alone, and each task of a busy key is claimed once to learn that it has to wait. Limits of
    a queue, ``Limits(rate_per_key=Rate(5, per=1))`` of a storage with ``push(…, key=…)``, hold over all processes, and
    claim no task that has to wait: prefer them where the key is known at the push.
    """

    __slots__ = ("_admitted", "_all", "_by_key", "_key", "_unused", "limit", "per")

    def __init__(self, n: int, *, per: float, key: Callable[[Task[Any]], Hashable] | None = None) -> None:
        self.limit = check_count(n, "n")
        self.per = check_seconds(per, "per", positive=True)
        self._key = None if key is None else check_plain(key, "key", "key(task) -> something hashable")
        self._all = _Tokens(None, self.limit, self.per)
        self._by_key: OrderedDict[Hashable, _Tokens] = OrderedDict()
        self._admitted: set[Parts] = set()  # admitted tasks whose attempt has not reached this layer yet (with a key)
        self._unused: dict[Parts, list[_Tokens]] = {}  # for each task, the tokens that were reserved and not used

    # For workers

    async def ready(self) -> None:
        """Wait until a token is free; with a key, return at once."""
        if self._key is None:
            await self._all.line.pass_through()
        else:
            await trio.lowlevel.checkpoint()

    def ready_nowait(self) -> None:
        """Return if a token is free and no caller waits for one, or with a key; else raise ``trio.WouldBlock``."""
        if self._key is None:
            self._all.line.pass_nowait()

    def admit(self, task: Task[Any]) -> bool:
        """Reserve a token for this task; False if none is free. With a key, always return True, since the attempt is
        suspended if it has to wait.
        """
        if self._key is None:
            return self.try_admit(task)
        self._admitted.add(task.parts)
        return True

    def try_admit(self, task: Task[Any]) -> bool:
        """Reserve a token for this task, with a key one of the task's key; False if none is free."""
        tokens = self._tokens_for(task)
        if tokens.free <= 0:
            return False
        tokens.reserved += 1
        self._unused.setdefault(task.parts, []).append(tokens)
        return True

    def dismiss(self, task: Task[Any]) -> None:
        """Free the token that was reserved for this task, if it was not used."""
        self._admitted.discard(task.parts)
        tokens = self._take_reserved(task)
        if tokens is not None:
            tokens.line.wake_first()

    def _take_reserved(self, task: Task[Any]) -> _Tokens | None:
        """Take the token that was reserved for this task; return its ``_Tokens``, or None."""
        unused = self._unused.get(task.parts)
        if unused is None:
            return None
        tokens = unused.pop()
        if not unused:
            del self._unused[task.parts]
        tokens.reserved -= 1
        return tokens

    # The layer

    async def __call__(self, handler: Handler[A, R], task: Task[A]) -> R:
        """Run the attempt on the token that was reserved for it; without one, wait for a token first.

        Raises:
          SuspendError: its key has no token now, and a worker runs it.
        """
        tokens = self._take_reserved(task)
        if tokens is None:
            tokens = self._tokens_for(task)
            is_first_call = task.parts in self._admitted
            if is_first_call:
                self._admitted.discard(task.parts)
                if tokens.free <= 0:
                    delay = max(0.0, tokens.put_off() - trio.current_time())
                    raise suspension(task, delay, self._reason(tokens))
            if not (is_first_call and tokens.line.is_empty):  # or other attempts would see this token free meanwhile
                tokens.callers += 1
                try:
                    await tokens.line.pass_through()
                finally:
                    tokens.callers -= 1
        tokens.use()
        return await handler(task)

    def _reason(self, tokens: _Tokens) -> str:
        """The reason of a suspension, for ``explain``."""
        return f"RateLimit: its key {quoted(tokens.key)} may begin {self.limit} attempts in {self.per:g} s"

    def _tokens_for(self, task: Task[Any]) -> _Tokens:
        if self._key is None:
            return self._all
        key = self._key(task)
        tokens = self._by_key.get(key)
        if tokens is None:
            self._forget_idle(2)
            tokens = self._by_key[key] = _Tokens(key, self.limit, self.per)
        return tokens

    def _forget_idle(self, most: int) -> None:
        """Look at up to ``most`` keys, and drop those that are idle. Each new key looks at two others, in turn, so
        few idle keys are kept.
        """
        for _ in range(min(most, len(self._by_key))):
            key, tokens = self._by_key.popitem(last=False)
            if not tokens.is_idle:
                self._by_key[key] = tokens

    def statistics(self) -> RateLimitStatistics:
        """Return the counts of this moment."""
        self._forget_idle(len(self._by_key))
        every = (self._all,) if self._key is None else tuple(self._by_key.values())
        return RateLimitStatistics(
            limit=self.limit,
            per=self.per,
            free=sum(tokens.free for tokens in every),
            reserved=sum(tokens.reserved for tokens in every),
            cooling=sum(tokens.cooling for tokens in every),
            waiting=sum(tokens.line.waiting for tokens in every),
            keys=tuple(self._by_key),
        )

    def explain(self) -> str:
        """Return how many attempts have begun, and when the next may begin, in a few words."""
        now = self.statistics()
        used = f"RateLimit: {now.limit - now.free} of {self.limit} in {self.per:g} s are used"
        opens_at = self._all.opens_at
        return used if opens_at in (OPEN, UNKNOWN) else f"{used}, the next in {opens_at - trio.current_time():.1f} s"

    def __repr__(self) -> str:
        return f"<RateLimit {self.limit} in {self.per:g} s{'' if self._key is None else ' for each key'}>"
