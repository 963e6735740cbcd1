"""All rules, in order."""

from __future__ import annotations

from . import (
    _rules_cancellation,
    _rules_changing,
    _rules_ending,
    _rules_leases,
    _rules_looking,
    _rules_order,
    _rules_outcomes,
    _rules_pushing,
    _rules_workers,
)
from ._rule import Rule, rules_of

_TOPICS = (
    _rules_pushing,
    _rules_order,
    _rules_outcomes,
    _rules_leases,
    _rules_ending,
    _rules_cancellation,
    _rules_workers,
    _rules_looking,
    _rules_changing,
)

RULES: dict[str, Rule] = {rule.name: rule for topic in _TOPICS for rule in rules_of(topic.__name__)}
"""Each rule by its name."""
