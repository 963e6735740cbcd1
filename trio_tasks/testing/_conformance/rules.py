"""The list of all rules, in order."""

from __future__ import annotations

from . import (
    rules_cancellation as _rules_cancellation,
    rules_changing as _rules_changing,
    rules_closing as _rules_closing,
    rules_engine as _rules_engine,
    rules_leases as _rules_leases,
    rules_order as _rules_order,
    rules_outcomes as _rules_outcomes,
    rules_pushing as _rules_pushing,
    rules_reading as _rules_reading,
    rules_workers as _rules_workers,
)
from .rule import Rule, rules_of

_TOPICS = (
    _rules_pushing,
    _rules_order,
    _rules_outcomes,
    _rules_leases,
    _rules_closing,
    _rules_cancellation,
    _rules_workers,
    _rules_reading,
    _rules_changing,
    _rules_engine,
)

RULES: dict[str, Rule] = {rule.name: rule for topic in _TOPICS for rule in rules_of(topic.__name__)}
"""Each rule by its name."""
