"""The table of all metrics, from the one in which their names stand."""

from __future__ import annotations

from trio_tasks.observe._names import ATTRIBUTES, METRICS


def table() -> str:
    """The table: a row for each metric, with both names and the labels."""
    lines = ["| Prometheus | OpenTelemetry | Labels | |", "| --- | --- | --- | --- |"]
    for each in METRICS:
        name = f"{each.prometheus}_total" if each.kind == "counter" else each.prometheus
        labels = ", ".join(each.labels)
        lines.append(f"| `{name}` | `{each.opentelemetry}` | {labels} | {each.kind.capitalize()}. {each.text}. |")
    attributes = ", ".join(f"`{label}` is `{name}`" for label, name in ATTRIBUTES.items())
    return "\n".join([*lines, "", f"The attributes of OpenTelemetry: {attributes}."])
