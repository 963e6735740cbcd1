"""A collector of metrics: it reads storages and workers when metrics are scraped or exported, and at no other time."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, final

import trio

from .._checks import check_seconds
from .._concurrency.threads import is_in_trio_thread
from ._readings import readings_of
from ._snapshot import SnapshotReader

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    from opentelemetry.metrics import Meter
    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric

    from .. import Monitor, Schedules
    from ._readings import Reading


@final
class Collector:
    """The metrics of a program's queues and workers, for Prometheus and for OpenTelemetry.

    >>> collector = Collector(monitor, queues)
    >>> collector.prometheus()  # registers with prometheus_client; its start_http_server, say, serves it
    >>> collector.opentelemetry(get_meter("shop"))  # instruments that are read at each export

    Nothing is counted twice for it: a scrape reads what storages and workers count anyway. The names of the metrics and
    their labels may change; see the table of them.

    Args:
      monitor: the monitor whose workers are told of; None: no workers.
      queues: the queues of a router, a storage, or a list of storages.
      schedules: the schedules that the program fires. Default: those of the queues of a router.
      timeout: seconds for which a scrape waits for the storages. Of a storage that has not answered,
          ``trio_tasks_up`` is 0, and the latest counters are told. Default: 1.

    Raises:
      TypeError: an argument is of the wrong type.
      ValueError: two of the storages are of the same queue.
    """

    def __init__(
        self, monitor: Monitor | None, queues: object, *, schedules: Schedules | None = None, timeout: float = 1.0
    ) -> None:
        check_seconds(timeout, "timeout", positive=True)
        self.reader = SnapshotReader(monitor, queues, schedules, timeout)
        self._token: trio.lowlevel.TrioToken | None = None

    def prometheus(self, registry: CollectorRegistry | None = None) -> None:
        """Register with ``prometheus_client``, inside the trio run whose storages are read.

        Its scrapes may come from another thread, as those of ``start_http_server`` do; they read in the trio run. One
        that comes when the run is over tells the latest counters.

        Args:
          registry: the registry. Default: the global one.

        Raises:
          ModuleNotFoundError: it needs ``trio_tasks[prometheus]``.
        """
        with _naming_extra("prometheus"):
            from ._prometheus import REGISTRY
        self._token = trio.lowlevel.current_trio_token()
        (REGISTRY if registry is None else registry).register(self)

    def opentelemetry(self, meter: Meter) -> None:
        """Make instruments of a meter, inside the trio run whose storages are read.

        They are observable ones, but for the histograms, in which the attempts since the last export are recorded: that
        costs some microseconds an attempt, in the thread that exports.

        Raises:
          ModuleNotFoundError: it needs ``trio_tasks[otel]``.
        """
        with _naming_extra("otel"):
            from ._instruments import Instruments
        self._token = trio.lowlevel.current_trio_token()
        Instruments(meter, self._readings)

    async def read(self) -> None:
        """Ask the storages for their counters, so that the next :meth:`collect` tells them."""
        await self.reader.read_queues()

    def collect(self) -> Iterable[Metric]:
        """Return all metrics: what ``prometheus_client`` calls for a scrape."""
        from ._prometheus import families_of

        return families_of(self._readings())

    def describe(self) -> Iterable[Metric]:
        """Return nothing, so that registering asks no storage."""
        return []

    def _readings(self) -> list[Reading]:
        """Return the values of all metrics; ask the storages, where that can be waited for: in another thread."""
        token = self._token
        if token is None or is_in_trio_thread(token) or trio.lowlevel.in_trio_run():
            return readings_of(self.reader)
        try:
            return trio.from_thread.run(self._read_anew, trio_token=token)
        except (trio.RunFinishedError, trio.Cancelled):  # noqa: ASYNC103  the run ends; this thread is not in it
            return readings_of(self.reader)  # noqa: ASYNC104  as above

    async def _read_anew(self) -> list[Reading]:
        await self.read()
        return readings_of(self.reader)


@contextmanager
def _naming_extra(extra: str) -> Generator[None, None, None]:
    """Name the extra that has the module which the block imports, if it is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{error}: pip install 'trio_tasks[{extra}]'", name=error.name) from None
