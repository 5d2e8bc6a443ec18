"""From a table of yours to an answer: do the auxiliary tasks help the main one, which of them, and what to use?"""

from mtlkit.tasks import lower_is_better
from mtlkit.your_data._answers import (
    METHODS,
    METRICS,
    SINGLE,
    against_single,
    answer_helps,
    answer_samples,
    answer_use,
    answer_which,
    attribution,
    budget,
    contenders,
    contrast,
    in_units,
    model,
    named,
    suspects,
)
from mtlkit.your_data._check import audit_check, mislabelled, readable_check
from mtlkit.your_data._levels import answer_levels, levels
from mtlkit.your_data._read import EXAMPLE_AUXILIARIES, Refused, example, located, read
from mtlkit.your_data._settings import Settings, settings
from mtlkit.your_data._table import Prepared, prepare

__all__ = [
    "EXAMPLE_AUXILIARIES",
    "METHODS",
    "METRICS",
    "SINGLE",
    "Prepared",
    "Refused",
    "Settings",
    "against_single",
    "answer_helps",
    "answer_levels",
    "answer_samples",
    "answer_use",
    "answer_which",
    "attribution",
    "audit_check",
    "budget",
    "contenders",
    "contrast",
    "example",
    "in_units",
    "levels",
    "located",
    "lower_is_better",
    "mislabelled",
    "model",
    "named",
    "prepare",
    "read",
    "readable_check",
    "settings",
    "suspects",
]
