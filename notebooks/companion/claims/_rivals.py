"""SLGrad and single-task training against systems that no paper here compares with; see :mod:`companion.claims`."""

from __future__ import annotations

from companion.claims._judge import Claim, Versus, most

RIVALS = (
    "MetaWeightNet",
    "AuxiLearn",
    "AuxiLearn, perceptron",
    "ARML",
    "GradientCosine, meta",
    "train + meta, half each, GradientCosine",
    "single task, noise layer",
)
ON_CLEAN_ROWS = RIVALS[-3:]
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
WITH_AUXILIARIES = ("ARML", "AuxiLearn", "AuxiLearn, perceptron", "GradientCosine, meta")
"""Those whose subject is auxiliaries rather than wrong labels."""


def rivals(says: dict[str, tuple[str, str]]) -> list[Claim]:
    """S1 against what learns weights or rates of wrong labels, and all other weightings; G1 against what came later.

    Args:
        says: claim to its paper and what that says.
    """
    asked = {"rivals that it is not compared with": RIVALS, "the weightings of other papers": OTHER_WEIGHTINGS}
    of_slgrad = [
        Claim("S1", *says["S1"], at, f"against {whom}", study, "label_noise_ranking", [Versus(at, "SLGrad", others)],
              notebook=notebook)
        for study, notebook in (("label_noise_mnist", "label_noise"), ("label_noise_digits", None))
        for at in ("20% label noise", "40% label noise", "60% label noise")
        for whom, others in asked.items()
    ]  # fmt: skip
    of_rows = [Versus(f"60% label noise, {rows} clean rows", "SLGrad", ON_CLEAN_ROWS) for rows in (25, 50, 500)]
    what = "against later rivals, with 25, 50 and 500 clean rows"
    of_slgrad.append(Claim("S1", *says["S1"], "60% label noise", what, "clean_rows", "clean_rows_gain", of_rows))
    study = "loss_weighting_comparison"
    of_single_task = [
        Claim("G1", *says["G1"], where, "later methods for auxiliaries", study, f"{study}_gain_by_size", [
            Versus(f"target: {target}, {rows} rows", "single task", WITH_AUXILIARIES, "loss", "no worse")
            for rows in (100, 1000)
        ], most)
        for target, where in (("left", "competing pair"), ("left_even", "related pair"))
    ]  # fmt: skip
    return [*of_slgrad, *of_single_task]
