"""Metrics by instruments of OpenTelemetry, which are read when the metrics are exported."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, final

from opentelemetry.metrics import Observation

from ._names import ATTRIBUTES, BUCKETS, METRICS
from ._readings import Histogram

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from opentelemetry.metrics import CallbackOptions, Meter

    from ._names import Metric
    from ._readings import Reading

_NOTHING = Histogram({}, 0.0)
_INSIDE = 1e-6, 1 - 1e-6


@final
class Instruments:
    """The instruments of a meter.

    OpenTelemetry has no histogram that is read. So at each export, the attempts since the one before are recorded in
    plain histograms, by their numbers and their sum: that is exact for the numbers, and for the sum.

    Args:
      meter: makes them.
      read: a function that returns the present values. It is called once for an export, for the first instrument.
    """

    def __init__(self, meter: Meter, read: Callable[[], Sequence[Reading]]) -> None:
        self._read = read
        self._readings: Sequence[Reading] = ()
        self._recorded: dict[tuple[str, tuple[str, ...]], Histogram] = {}
        self._histograms = {
            each.opentelemetry: meter.create_histogram(
                each.opentelemetry, each.unit, each.text, explicit_bucket_boundaries_advisory=BUCKETS
            )
            for each in METRICS
            if each.kind == "histogram"
        }
        for number, metric in enumerate(each for each in METRICS if each.kind != "histogram"):
            callbacks = [partial(self._observe, metric, is_first=not number)]
            if metric.kind == "counter":
                meter.create_observable_counter(metric.opentelemetry, callbacks, metric.unit, metric.text)
            else:
                meter.create_observable_gauge(metric.opentelemetry, callbacks, metric.unit, metric.text)

    def _observe(self, metric: Metric, _: CallbackOptions, *, is_first: bool) -> Iterator[Observation]:
        """Return the values of a metric; for the first one, read all anew."""
        if is_first:
            self._readings = self._read()
            self._record()
        for reading in self._readings:
            if reading.metric is metric and not isinstance(reading.value, Histogram):
                yield Observation(reading.value, _attributes(reading))

    def _record(self) -> None:
        """Record what the histograms have more than the last time."""
        for reading in self._readings:
            if not isinstance(reading.value, Histogram):
                continue
            key = reading.metric.opentelemetry, reading.labels
            before, self._recorded[key] = self._recorded.get(key, _NOTHING), reading.value
            attributes, histogram = _attributes(reading), self._histograms[reading.metric.opentelemetry]
            for seconds, number in _since(before, reading.value):
                for _ in range(number):
                    histogram.record(seconds, attributes)


def _since(before: Histogram, now: Histogram) -> Iterator[tuple[float, int]]:
    """Return seconds, and how often they are to be recorded, so that the numbers and the sum become those of now.

    All that took less than a bound, and not less than half of it, are recorded as the same part of the way from there
    to the bound: the part with which the sum is right.
    """
    new = {bound: number - before.counts.get(bound, 0) for bound, number in now.counts.items()}
    least = sum(number * bound / 2 for bound, number in new.items())
    if not least:
        return
    part = min(max((now.total - before.total - least) / least, _INSIDE[0]), _INSIDE[1])
    for bound, number in new.items():
        yield bound / 2 * (1 + part), number


def _attributes(reading: Reading) -> dict[str, str]:
    labels = zip(reading.metric.labels, reading.labels, strict=True)
    return {**reading.metric.operation, **{ATTRIBUTES[label]: value for label, value in labels if value}}
