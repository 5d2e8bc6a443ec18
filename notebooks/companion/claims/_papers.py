"""What the papers claim, and what is compared to test it; see :mod:`companion.claims`."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from companion.claims import _rivals
from companion.claims._architectures import ARCHITECTURES
from companion.claims._language import LANGUAGE
from companion.claims._rules import (
    SHARES,
    Absent,
    Claim,
    Comparison,
    Numbers,
    every,
    first,
    most,
    none_best,
    outcomes,
    setting,
    versus,
)

SLGRAD, HYDALEARN, ALPHAVIL, COMPARISON = (
    "arXiv 2306.04519",
    "arXiv 2008.11643",
    "arXiv 2405.07769",
    "IEEE Access 7 (2019)",
)
PAPERS_BASELINES = ("Uniform", "RandomWeighting", "GradientCosine", "OLAux", "PCGrad", "CAGrad", "GradNorm")
DEPARTING = ("OLAux", "PCGrad", "CAGrad", "GradNorm")
"""Baselines that SLGrad's published code has otherwise than their papers."""
CLEAN_ROWS = ("meta rows only", "meta rows only, main task only", "train + meta", "train + meta, half each")
LOWEST = "With noisy labels of the main task, SLGrad has the lowest main-task test loss."
NO_GAIN = "Multi-task training typically does not improve on single-task training."
CORRECTED = ("Uniform, forward correction", "single task, forward correction")
DRIFTING = ("synthetic", "adult, 300 rows", "adult, 1000 rows", "adult, 3000 rows")
LOG_RATIO = 0.1
"""Smallest change of a gain in the logarithm of a ratio of losses that matters."""
NEAR_ZERO = 0.1
"""A noisy label's mean weight counts as near zero below this share of a clean label's."""
STRONGLY = 0.1
"""Weights vary strongly if the standard deviation of an auxiliary's weight within an epoch is above this share of 1."""


def _less_weight(condition: str) -> Callable[[Numbers], list[Comparison]]:
    """Noisy labels get less than their share of the weight, less than half of it, and next to none each."""

    def build(numbers: Numbers) -> list[Comparison]:
        weight = numbers.of(condition, "SLGrad", "noisy_weight")
        labels = numbers.of(condition, "SLGrad", "noisy_labels")
        tenth = NEAR_ZERO * labels / (1 - labels + NEAR_ZERO * labels)
        learned = setting(numbers, condition, ["SLGrad"], "loss", own="SLGrad")
        options = {"lower": True, "infinite": False, "setting": learned}
        margin = SHARES["noisy_weight"]
        one = (condition, "SLGrad")
        name = "share of the weight on noisy labels"
        return [
            Comparison(*one, "their number", name, weight, labels, margin=margin, **options),
            Comparison(*one, "half", name, weight, 0.5, margin=0.0, **options),
            Comparison(*one, "a tenth of a clean label's weight each", name, weight, tenth, margin=0.0, **options),
        ]

    return build


def _drifting_share(condition: str) -> Callable[[Numbers], list[Comparison]]:
    """The auxiliaries' share changes from the first to the last epoch, and using them does no harm."""

    def build(numbers: Numbers) -> list[Comparison]:
        first, last = (numbers.of(condition, "SLGrad", f"auxiliary_share_{when}") for when in ("first", "last"))
        moved = Comparison(
            condition,
            "SLGrad, last epoch",
            "first epoch",
            "auxiliaries' share of the weight",
            last,
            first,
            lower=True,
            margin=SHARES["auxiliary_share"],
            setting=setting(numbers, condition, ["SLGrad"], "loss", own="SLGrad"),
            wants="different",
            infinite=False,
        )
        return [moved, *versus(numbers, condition, "SLGrad", ["SLGrad, main task only"], "loss", "no worse")]

    return build


def _slgrad(study: str, noises: Sequence[str], notebook: str, known_rate: bool) -> list[Claim]:
    """S1 to S4 on one study, at these levels of noise and without noise."""
    clean = "0% label noise"
    common = {"source": SLGRAD, "study": study, "notebook": notebook}
    opponents = {
        "the paper's baselines": PAPERS_BASELINES,
        "plain training on the clean rows": CLEAN_ROWS,
        **({"plain training that knows the share of wrong labels": CORRECTED} if known_rate else {}),
        "a linear model on the clean rows": ("linear model, clean rows",),
    }
    lowest = [
        Claim(
            id="S1",
            sentence=LOWEST,
            where=f"{noise} label noise",
            what=f"against {whom}",
            figure="label_noise_ranking",
            comparisons=functools.partial(
                versus, condition=f"{noise} label noise", method="SLGrad", others=others, metric="loss"
            ),
            **common,
        )
        for noise in noises
        for whom, others in opponents.items()
    ]
    near_zero = [
        Claim(
            id="S2",
            sentence="SLGrad gives noisy samples weights near zero and clean ones most of the weight.",
            where=f"{noise} label noise",
            what="",
            figure="label_noise_weights",
            comparisons=_less_weight(f"{noise} label noise"),
            **common,
        )
        for noise in noises
    ]
    harmless = Claim(
        id="S3",
        sentence="SLGrad also helps, or does not hurt, without noise.",
        where=clean,
        what="against uniform weights",
        figure="label_noise_ranking",
        comparisons=lambda numbers: versus(numbers, clean, "SLGrad", ["Uniform"], "loss", "no worse"),
        **common,
    )
    drifting = [
        Claim(
            id="S4",
            sentence="SLGrad uses auxiliary samples while they help: their share of the weight drifts.",
            where=f"{noise} label noise",
            what="",
            figure="label_noise_curves",
            comparisons=_drifting_share(f"{noise} label noise"),
            rule=first,
            **common,
        )
        for noise in ("0%", *noises)
    ]
    return [*lowest, *near_zero, harmless, *drifting]


def _as_published(numbers: Numbers, ours: str) -> list[Comparison]:
    """SLGrad's test loss against its baselines, the published variant where there is one."""
    noisy = "60% label noise"
    others = [f"{m}, as published" if m in DEPARTING else m for m in PAPERS_BASELINES]
    return versus(numbers, noisy, ours, others, "loss")


def _alphavil(id: str, sentence: str, others: Sequence[str], wants: str) -> list[Claim]:
    """Both targets, against rivals of as many steps: one pass over the data for all branches together, or for each."""

    def build(budget: str) -> Callable[[Numbers], list[Comparison]]:
        return lambda numbers: [
            comparison
            for condition in numbers.conditions("target: ")
            for comparison in versus(
                numbers, condition, f"AlphaVIL{budget}", [other + budget for other in others], "accuracy", wants
            )
        ]

    return [
        Claim(
            id=id,
            source=ALPHAVIL,
            sentence=sentence,
            where="each digit in turn",
            what=what,
            study="alphavil",
            figure="alphavil_ranking",
            comparisons=build(budget),
        )
        for what, budget in (
            ("all of the data for each branch", ", twice the steps"),
            ("branches share the data", ""),
        )
    ]


def _hydalearn(data: str) -> list[Claim]:
    """H1 to H3 on one data set."""

    def claim(id: str, sentence: str, what: str, figure: str, comparisons: Callable) -> Claim:
        return Claim(
            id=id,
            source=HYDALEARN,
            sentence=sentence,
            where=data,
            what=what,
            study="hydalearn_drift",
            figure=f"hydalearn_drift_{figure}",
            comparisons=functools.partial(comparisons, data=data),
        )

    return [
        claim(
            "H1",
            "HydaLearn beats every static weight of a grid on the main metric.",
            "against five static weights",
            f"ranking_{data.replace(', ', '_').replace(' rows', '')}",
            _static_weights,
        ),
        *(
            claim(
                "H2",
                "HydaLearn's weight of an auxiliary falls when that auxiliary's relevance falls.",
                f"gain measured on {where}",
                "shares",
                functools.partial(_falling_share, method=method),
            )
            for where, method in (("meta rows", "HydaLearn"), ("the training batch", "HydaLearn, on batch"))
        ),
        claim(
            "H3",
            "The best weights vary strongly between the mini-batches of an epoch.",
            "",
            "shares",
            _varying_weights,
        ),
    ]


def _static_weights(numbers: Numbers, data: str) -> list[Comparison]:
    """HydaLearn against every static weight, with and without drift."""
    return [
        comparison
        for condition in numbers.conditions(f"{data}, ")
        for comparison in versus(numbers, condition, "HydaLearn", numbers.methods(condition, "static"), "loss")
    ]


def _falling_share(numbers: Numbers, data: str, method: str) -> list[Comparison]:
    """The auxiliaries' share falls when they lose their relevance, and falls more than without that."""
    drifting, steady = f"{data}, drift", f"{data}, no drift"
    (before, after), (before_too, after_too) = (
        [numbers.of(condition, method, f"auxiliary_share_{when}") for when in ("before", "after")]
        for condition in (drifting, steady)
    )
    learned = setting(numbers, drifting, [method], "loss", own=method)
    options = {"lower": True, "margin": SHARES["auxiliary_share"], "infinite": False, "setting": learned}
    share, change = "auxiliaries' share of the weight", "change of the auxiliaries' share"
    return [
        Comparison(drifting, f"{method}, after the drift", "before it", share, after, before, **options),
        Comparison(drifting, f"{method}, drift", "no drift", change, after - before, after_too - before_too, **options),
    ]


def _varying_weights(numbers: Numbers, data: str) -> list[Comparison]:
    """The auxiliaries' share varies between the mini-batches of an epoch."""
    name = "sd of the auxiliaries' share within an epoch"
    return [
        Comparison(
            condition,
            "HydaLearn",
            f"{STRONGLY:g}",
            name,
            numbers.of(condition, "HydaLearn", "within_epoch_sd"),
            STRONGLY,
            lower=False,
            margin=0.0,
            setting=setting(numbers, condition, ["HydaLearn"], "loss", own="HydaLearn"),
            infinite=False,
        )
        for condition in numbers.conditions(f"{data}, ")
    ]


def _gong(id: str, sentence: str, figure: str, comparisons: Callable, rule: Callable, pair: str = "") -> Claim:
    where = {"": "both pairs", "left": "competing pair", "left_even": "related pair"}[pair]
    return Claim(
        id=id,
        source=COMPARISON,
        sentence=sentence,
        where=where,
        what="",
        study="loss_weighting_comparison",
        figure=f"loss_weighting_comparison_{figure}",
        comparisons=functools.partial(comparisons, pair=pair),
        rule=rule,
    )


STRATEGIES = ("Uniform", "DWA", "Uncertainty")


def _target(pair: str) -> str:
    """What the conditions of a pair of tasks begin with, or those of all pairs."""
    return f"target: {pair}, " if pair else "target: "


def _single_task(numbers: Numbers, pair: str) -> list[Comparison]:
    """Single-task training is no worse than any strategy."""
    return [
        comparison
        for condition in numbers.conditions(_target(pair))
        for comparison in versus(numbers, condition, "single task", STRATEGIES, "loss", "no worse")
    ]


def _strategies(numbers: Numbers, pair: str) -> list[Comparison]:
    """Every strategy against every other one."""
    return [
        comparison
        for condition in numbers.conditions(_target(pair))
        for place, method in enumerate(STRATEGIES)
        for comparison in versus(numbers, condition, method, STRATEGIES[place + 1 :], "loss", "different")
    ]


def _shrinking_gains(numbers: Numbers, pair: str) -> list[Comparison]:
    """The gain over single-task training at the largest size against that at the smallest, where there is one.

    Gains are logarithms of the ratio of the losses: all losses, and their differences, fall with more data.
    """
    conditions = numbers.conditions(_target(pair))
    by_size = {int(re.search(r", (\d+) rows$", condition)[1]): condition for condition in conditions}
    small, large = by_size[min(by_size)], by_size[max(by_size)]

    def gain(condition: str, strategy: str) -> pd.Series:
        return np.log(numbers.of(condition, "single task", "loss")) - np.log(numbers.of(condition, strategy, "loss"))

    found = [
        Comparison(
            _target(pair),
            f"{strategy}, {max(by_size)} rows",
            f"{min(by_size)} rows",
            "gain over single task (log ratio of losses)",
            gain(large, strategy),
            gain(small, strategy),
            lower=True,
            margin=LOG_RATIO,
            setting=setting(numbers, small, [strategy, "single task"], "loss", own=strategy),
        )
        for strategy in STRATEGIES
        if outcomes(versus(numbers, small, strategy, ["single task"], "loss"))["holds"].item()
    ]
    if not found:
        raise Absent("no strategy gains anything over single-task training at the smallest size")
    return found


_CLAIMS = (
    *_slgrad("label_noise_mnist", ("20%", "40%", "60%"), "label_noise", known_rate=True),
    *_slgrad("label_noise_digits", ("20%", "40%", "60%"), "label_noise", known_rate=True),
    *_slgrad("label_noise_cifar10", ("40%", "60%"), "label_noise", known_rate=True),
    *_slgrad("toy_regression", ("30%",), "toy_regression", known_rate=False),
    *_slgrad("synthetic", ("30%",), "toy_regression", known_rate=False),
    *(
        Claim(
            id="S1",
            source=SLGRAD,
            sentence=LOWEST,
            where="60% label noise",
            what=f"{who} as the authors' code has them",
            study="published_baselines",
            figure="published_baselines_ranking",
            comparisons=functools.partial(_as_published, ours=ours),
        )
        for who, ours in (("baselines", "SLGrad"), ("baselines and SLGrad", "SLGrad, as published"))
    ),
    *_alphavil("V1", "αVIL beats single-task and standard multi-task training.", ("single task", "Uniform"), "better"),
    *_alphavil("V2", "αVIL matches or beats DIW.", ("DIW",), "no worse"),
    *(claim for data in DRIFTING for claim in _hydalearn(data)),
    *(
        claim
        for pair in ("left", "left_even")
        for claim in (
            _gong(
                "G1",
                NO_GAIN,
                "gain_by_size",
                _single_task,
                most,
                pair,
            ),
            _gong("G3", "Any gain shrinks as the data grow.", "gain_by_size", _shrinking_gains, every, pair),
        )
    ),
    _gong("G2", "No weighting strategy is best everywhere.", "ranking_left", _strategies, none_best),
    *_rivals.slgrad(LOWEST, SLGRAD),
    *_rivals.strategies(NO_GAIN, COMPARISON),
    *LANGUAGE,
    *ARCHITECTURES,
)
CLAIMS: tuple[Claim, ...] = tuple(sorted(_CLAIMS, key=lambda claim: ("SHVGA".index(claim.id[0]), claim.id)))
"""All claims, in the order of the papers."""
