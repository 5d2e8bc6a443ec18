"""From a table of yours to an answer: do the auxiliary tasks help the main one, which of them, and what to use?"""

from mtlkit.your_data._answers import (
    METHODS,
    METRICS,
    SINGLE,
    against_single,
    answer_helps,
    answer_use,
    answer_which,
    attribution,
    budget,
    contenders,
    contrast,
    in_units,
    model,
    suspects,
)
from mtlkit.your_data._check import audit_check, readable_check
from mtlkit.your_data._table import EXAMPLE_AUXILIARIES, Prepared, Refused, example, located, prepare, read

__all__ = [
    "EXAMPLE_AUXILIARIES",
    "METHODS",
    "METRICS",
    "SINGLE",
    "Prepared",
    "Refused",
    "against_single",
    "answer_helps",
    "answer_use",
    "answer_which",
    "attribution",
    "audit_check",
    "budget",
    "contenders",
    "contrast",
    "example",
    "in_units",
    "located",
    "model",
    "prepare",
    "read",
    "readable_check",
    "suspects",
]
