"""Metrics in the form in which ``prometheus_client`` writes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prometheus_client import REGISTRY as REGISTRY
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from ._names import BUCKETS, METRICS
from ._readings import Histogram

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from prometheus_client.metrics_core import Metric as Family

    from ._readings import Reading

_KINDS: dict[str, Any] = {
    "gauge": GaugeMetricFamily,
    "counter": CounterMetricFamily,
    "histogram": HistogramMetricFamily,
}


def families_of(readings: Iterable[Reading]) -> list[Family]:
    """Return all metrics with these values, those without a value among them."""
    families: dict[str, Any] = {
        each.prometheus: _KINDS[each.kind](each.prometheus, each.text, labels=each.labels) for each in METRICS
    }
    for metric, labels, value in readings:
        if isinstance(value, Histogram):
            families[metric.prometheus].add_metric(labels, _cumulated(value.counts), value.total)
        else:
            families[metric.prometheus].add_metric(labels, value)
    return [*families.values()]


def _cumulated(histogram: Mapping[float, int]) -> list[tuple[str, float]]:
    """Return how many took less than each bound. A key of the histogram is a bound, too."""
    counts = [(str(bound), sum(n for limit, n in histogram.items() if limit <= bound)) for bound in BUCKETS]
    return [*counts, ("+Inf", sum(histogram.values()))]
