"""SLGrad and single-task training against systems that no paper here compares with; see :mod:`companion.claims`."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from companion.claims._rules import Absent, Claim, Comparison, Numbers, most, versus

RIVALS = (
    "MetaWeightNet",
    "AuxiLearn",
    "ARML",
    "train + meta, half each, GradientCosine",
    "single task, noise layer",
)
OTHER_WEIGHTINGS = (
    "Uncertainty",
    "RevisedUncertainty",
    "DWA",
    "AdaptiveWeights",
    "SLAW",
    "LogSE",
    "GradientCosine, weighted",
    "MetaTartan",
    "HydaLearn",
    "MGDA",
    "UPGrad",
    "IMTL-G",
    "Aligned-MTL",
    "OrthogonalGradients",
)
WITH_AUXILIARIES = ("ARML", "AuxiLearn", "GradientCosine, meta")
"""Those whose subject is auxiliaries rather than wrong labels."""


def slgrad(sentence: str, source: str) -> list[Claim]:
    """S1 against those that learn weights or rates of wrong labels, and against every other weighting."""
    return [
        Claim(
            id="S1",
            source=source,
            sentence=sentence,
            where=f"{noise} label noise",
            what=f"against {whom}",
            study=study,
            figure="label_noise_ranking",
            comparisons=functools.partial(
                versus, condition=f"{noise} label noise", method="SLGrad", others=others, metric="loss"
            ),
            notebook="label_noise",
        )
        for study in ("label_noise_mnist", "label_noise_digits")
        for noise in ("20%", "40%", "60%")
        for whom, others in (
            ("rivals that it is not compared with", RIVALS),
            ("the weightings of other papers", OTHER_WEIGHTINGS),
        )
    ]


def _no_worse(numbers: Numbers, target: str, others: Sequence[str]) -> list[Comparison]:
    """Single-task training against methods, at all sizes at which they were run."""
    conditions = numbers.conditions(f"target: {target}, ")
    there = [condition for condition in conditions if set(others) <= set(numbers.methods(condition))]
    if not there:
        raise Absent(f"no size with {', '.join(others)}")
    return [one for where in there for one in versus(numbers, where, "single task", others, "loss", "no worse")]


def strategies(sentence: str, source: str) -> list[Claim]:
    """G1 against the methods whose subject are auxiliaries, that came after it."""
    return [
        Claim(
            id="G1",
            source=source,
            sentence=sentence,
            where=where,
            what="later methods for auxiliaries",
            study="loss_weighting_comparison",
            figure="loss_weighting_comparison_gain_by_size",
            comparisons=functools.partial(_no_worse, target=target, others=WITH_AUXILIARIES),
            rule=most,
        )
        for target, where in (("left", "competing pair"), ("left_even", "related pair"))
    ]
