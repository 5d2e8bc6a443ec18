"""αVIL's claims on the five language tasks, each in turn the target; see :mod:`companion.claims`."""

from __future__ import annotations

from companion.claims._judge import Claim, Versus

TARGETS = {"cb": "CB", "copa": "COPA", "mrpc": "MRPC", "rte": "RTE", "winogrande": "WinoGrande"}
"""Target to its name."""


def language_claims(says: dict[str, tuple[str, str]]) -> list[Claim]:
    """V1 and V2, and V2 against the rival that a reader would name.

    Args:
        says: claim to its paper and what that says.
    """
    asked = (
        ("V1", "branches share the data", ["single task", "Uniform"], "better"),
        ("V2", "branches share the data", ["DIW"], "no worse"),
        ("V2", "and than ForkMerge", ["ForkMerge"], "no worse"),
    )
    return [
        Claim(id, *says[id], name, what, "language_tasks", "language_tasks_accuracy", [
            Versus(f"target: {target}", "AlphaVIL", others, "accuracy", wants)
        ])
        for target, name in TARGETS.items()
        for id, what, others, wants in asked
    ]  # fmt: skip
