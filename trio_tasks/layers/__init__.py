"""Layers: middleware around each attempt, ``async (handler, task) -> result``. The first one listed is the outermost.

>>> Worker("emails", storage, send_email, layers=[Log(), RateLimit(10, per=1), Timeout(30)])

Three of them are gates as well: :class:`ConcurrencyLimit`, :class:`RateLimit` and :class:`CircuitBreaker` hold a
worker's intake back, so that what they have no room for stays in the backend. The rest act on running attempts.
"""

from .._exports import rename as _rename
from ._acknowledge import Acknowledge as Acknowledge
from ._circuit_breaker import (
    CircuitBreaker as CircuitBreaker,
    CircuitBreakerStatistics as CircuitBreakerStatistics,
    CircuitState as CircuitState,
)
from ._concurrency_limit import (
    ConcurrencyLimit as ConcurrencyLimit,
    ConcurrencyLimitStatistics as ConcurrencyLimitStatistics,
)
from ._event_listener import EventListener as EventListener
from ._filter import Filter as Filter
from ._in_thread import DjangoConnections as DjangoConnections, InThread as InThread
from ._load_shed import LoadShed as LoadShed
from ._log import Log as Log
from ._long_running import LongRunning as LongRunning, StillRunning as StillRunning
from ._mapping import MapArgs as MapArgs, MapError as MapError, MapResult as MapResult
from ._rate_limit import RateLimit as RateLimit, RateLimitStatistics as RateLimitStatistics
from ._retry import Retry as Retry
from ._timeout import Timeout as Timeout
from ._trace import Trace as Trace

_rename(__name__, globals())
