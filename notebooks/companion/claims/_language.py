"""αVIL's claims on the five language tasks, each in turn the target; see :mod:`companion.claims`."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from companion.claims._rules import Claim, Comparison, Numbers, versus

TARGETS = {"cb": "CB", "copa": "COPA", "mrpc": "MRPC", "rte": "RTE", "winogrande": "WinoGrande"}
"""Target to its name."""


def _alphavil(numbers: Numbers, target: str, others: Sequence[str], wants: str) -> list[Comparison]:
    return versus(numbers, f"target: {target}", "AlphaVIL", others, "accuracy", wants)


LANGUAGE: tuple[Claim, ...] = tuple(
    Claim(
        id=id,
        source="arXiv 2405.07769",
        sentence=sentence,
        where=name,
        what=what,
        study="language_tasks",
        figure="language_tasks_accuracy",
        comparisons=functools.partial(_alphavil, target=target, others=others, wants=wants),
    )
    for target, name in TARGETS.items()
    for id, sentence, what, others, wants in (
        (
            "V1",
            "αVIL beats single-task and standard multi-task training.",
            "branches share the data",
            ("single task", "Uniform"),
            "better",
        ),
        ("V2", "αVIL matches or beats DIW.", "branches share the data", ("DIW",), "no worse"),
        ("V2", "αVIL matches or beats DIW.", "and than ForkMerge", ("ForkMerge",),
         "no worse"),
    )
)  # fmt: skip
"""V1 and V2, and the rival that a reader would name."""
