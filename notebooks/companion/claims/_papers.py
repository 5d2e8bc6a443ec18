"""What the papers claim, and what is compared to test it: a row per claim and setting; see :mod:`companion.claims`."""

from __future__ import annotations

from collections.abc import Sequence

from companion.claims._architectures import ARCHITECTURES
from companion.claims._judge import Change, Claim, Versus, first, most, none_best
from companion.claims._language import language_claims
from companion.claims._rivals import rivals

SLGRAD, HYDALEARN, ALPHAVIL, COMPARISON = (
    "arXiv 2306.04519",
    "arXiv 2008.11643",
    "arXiv 2405.07769",
    "IEEE Access 7 (2019)",
)
SAYS = {
    "S1": (SLGRAD, "With noisy labels of the main task, SLGrad has the lowest main-task test loss."),
    "S2": (SLGRAD, "SLGrad gives noisy samples weights near zero and clean ones most of the weight."),
    "S3": (SLGRAD, "SLGrad also helps, or does not hurt, without noise."),
    "S4": (SLGRAD, "SLGrad uses auxiliary samples while they help: their share of the weight drifts."),
    "H1": (HYDALEARN, "HydaLearn beats every static weight of a grid on the main metric."),
    "H2": (HYDALEARN, "HydaLearn's weight of an auxiliary falls when that auxiliary's relevance falls."),
    "H3": (HYDALEARN, "The best weights vary strongly between the mini-batches of an epoch."),
    "V1": (ALPHAVIL, "αVIL beats single-task and standard multi-task training."),
    "V2": (ALPHAVIL, "αVIL matches or beats DIW."),
    "G1": (COMPARISON, "Multi-task training typically does not improve on single-task training."),
    "G2": (COMPARISON, "No weighting strategy is best everywhere."),
    "G3": (COMPARISON, "Any gain shrinks as the data grow."),
}
"""Claim to its paper and what that says, in our words."""

PAPERS_BASELINES = ("Uniform", "RandomWeighting", "GradientCosine", "OLAux", "PCGrad", "CAGrad", "GradNorm")
DEPARTING = ("OLAux", "PCGrad", "CAGrad", "GradNorm")
"""Baselines that SLGrad's published code has otherwise than their papers."""
CLEAN_ROWS = ("meta rows only", "meta rows only, main task only", "train + meta", "train + meta, half each")
UNLABELLED = ("clean main labels",)
CORRECTED = ("Uniform, forward correction", "single task, forward correction")
SIDES = ("left", "right")
STRATEGIES = ("Uniform", "DWA", "Uncertainty")
PAIRS = {"left": "competing pair", "left_even": "related pair"}
SIZES = [f"{n} rows" for n in (100, 500, 1000, 5000, 15000)]
SMALLEST, LARGEST = SIZES[0], SIZES[-1]
SHARES = {"auxiliary_share": 0.05, "noisy_weight": 0.05}
"""Smallest difference that matters between shares of weight."""
LOG_RATIO = 0.1
"""Smallest change of a gain in the logarithm of a ratio of losses that matters."""
STRONGLY = 0.1
"""Weights vary strongly if the standard deviation of an auxiliary's weight within an epoch is above this share of 1."""


def _share(condition: str, method: str, against: str, ours: tuple, theirs: tuple | float, **options) -> Change:
    """A share of weight that is claimed to be lower than another."""
    options = {"metric": "auxiliaries' share of the weight", "margin": SHARES["auxiliary_share"], **options}
    return Change(condition, method, against, ours=ours, theirs=theirs, lower=True, learned=ours[:1], **options)


def _less_weight(condition: str) -> list[Change]:
    """Noisy labels get less than their share of the weight, less than half of it, and next to none each."""
    than = {
        "their number": (("SLGrad", "noisy_labels"), SHARES["noisy_weight"]),
        "half": (0.5, 0.0),
        "a tenth of a clean label's weight each": (("SLGrad", "near_zero_weight"), 0.0),
    }
    ours, metric = ("SLGrad", "noisy_weight"), "share of the weight on noisy labels"
    return [
        _share(condition, "SLGrad", what, ours, theirs, metric=metric, margin=margin)
        for what, (theirs, margin) in than.items()
    ]


def _drifting_share(condition: str) -> list[Change | Versus]:
    """The auxiliaries' share changes from the first to the last epoch, and using them does no harm."""
    ours, theirs = (("SLGrad", f"auxiliary_share_{when}") for when in ("last", "first"))
    return [
        _share(condition, "SLGrad, last epoch", "first epoch", ours, theirs, wants="different"),
        Versus(condition, "SLGrad", ["SLGrad, main task only"], "loss", "no worse"),
    ]


def _falling_share(data: str, method: str) -> list[Change]:
    """The auxiliaries' share falls when they lose their relevance, and falls more than without that."""
    after, before, change = ((method, f"auxiliary_share_{what}") for what in ("after", "before", "change"))
    drift, metric = f"{data}, drift", "change of the auxiliaries' share"
    return [
        _share(drift, f"{method}, after the drift", "before it", after, before, room=before),
        _share(
            drift, f"{method}, drift", "no drift", change, (f"{data}, no drift", *change), metric=metric, room=before
        ),
    ]


def _varying_weights(data: str) -> list[Change]:
    """The auxiliaries' share varies between the mini-batches of an epoch, with and without drift."""
    ours, metric = ("HydaLearn", "within_epoch_sd"), "sd of the auxiliaries' share within an epoch"
    options = {"ours": ours, "theirs": STRONGLY, "lower": False, "margin": 0.0, "learned": ours[:1]}
    return [Change(f"{data}, *", "HydaLearn", f"{STRONGLY:g}", metric, **options)]


def _shrinking_gains(pair: str) -> list[Change]:
    """The gain over single-task training at the largest size against that at the smallest, where there is one.

    Gains are logarithms of the ratio of the losses: all losses, and their differences, fall with more data.
    """
    small, large = f"target: {pair}, {SMALLEST}", f"target: {pair}, {LARGEST}"
    return [
        Change(
            small,
            f"{strategy}, {LARGEST}",
            SMALLEST,
            "gain over single task (log ratio of losses)",
            ours=(large, strategy, "log_gain_over_single_task"),
            theirs=(strategy, "log_gain_over_single_task"),
            lower=True,
            margin=LOG_RATIO,
            learned=(strategy, "single task"),
            given=Versus(small, strategy, ["single task"]),
        )
        for strategy in STRATEGIES
    ]


def _slgrad(study: str, noises: Sequence[str], notebook: str | None, known_rate: bool = True) -> list[Claim]:
    """S1 to S4 on one study, at these levels of noise and without noise."""
    opponents = {
        "the paper's baselines": PAPERS_BASELINES,
        "plain training on the clean rows": CLEAN_ROWS,
        "plain training without the main labels that may be wrong": UNLABELLED,
        **({"plain training that knows the share of wrong labels": CORRECTED} if known_rate else {}),
        "a linear model on the clean rows": ("linear model, clean rows",),
    }
    clean, noisy = "0% label noise", [f"{noise} label noise" for noise in noises]
    ranking, weights, curves = ((study, f"label_noise_{name}") for name in ("ranking", "weights", "curves"))
    unharmed = [Versus(clean, "SLGrad", ["Uniform"], "loss", "no worse")]
    shown = {"notebook": notebook}
    return [
        *(
            Claim("S1", *SAYS["S1"], at, f"against {whom}", *ranking, [Versus(at, "SLGrad", others)], **shown)
            for at in noisy
            for whom, others in opponents.items()
        ),
        *(Claim("S2", *SAYS["S2"], at, "", *weights, _less_weight(at), **shown) for at in noisy),
        Claim("S3", *SAYS["S3"], clean, "against uniform weights", *ranking, unharmed, **shown),
        *(Claim("S4", *SAYS["S4"], at, "", *curves, _drifting_share(at), first, **shown) for at in (clean, *noisy)),
    ]


def _published() -> list[Claim]:
    """S1 against the baselines, the published variant where there is one."""
    at, shown = "60% label noise", ("published_baselines", "published_baselines_ranking")
    others = [f"{method}, as published" if method in DEPARTING else method for method in PAPERS_BASELINES]
    who = {"baselines": "SLGrad", "baselines and SLGrad": "SLGrad, as published"}
    return [
        Claim("S1", *SAYS["S1"], at, f"{what} as the authors' code has them", *shown, [Versus(at, ours, others)])
        for what, ours in who.items()
    ]


def _hydalearn(data: str) -> list[Claim]:
    """H1 to H3 on one data set."""
    study = "hydalearn_drift"
    ranking = study, f"{study}_ranking_{data.replace(', ', '_').replace(' rows', '')}"
    shares = study, f"{study}_shares"
    static = [Versus(f"{data}, *", "HydaLearn", ["static*"])]
    measured = {"meta rows": "HydaLearn", "the training batch": "HydaLearn, on batch"}
    return [
        Claim("H1", *SAYS["H1"], data, "against five static weights", *ranking, static),
        *(
            Claim("H2", *SAYS["H2"], data, f"gain measured on {where}", *shares, _falling_share(data, method))
            for where, method in measured.items()
        ),
        Claim("H3", *SAYS["H3"], data, "", *shares, _varying_weights(data)),
    ]


def _alphavil(id: str, others: Sequence[str], wants: str) -> list[Claim]:
    """Both targets, against rivals of as many steps: one pass over the data for all branches together, or for each."""
    budgets = {"all of the data for each branch": ", twice the steps", "branches share the data": ""}
    return [
        Claim(id, *SAYS[id], "each digit in turn", what, "alphavil", "alphavil_ranking", [
            Versus(f"target: {target}", f"AlphaVIL{budget}", [other + budget for other in others], "accuracy", wants)
            for target in SIDES
        ])
        for what, budget in budgets.items()
    ]  # fmt: skip


def _forkmerge() -> Claim:
    """V2 against the rival that a reader would name, which has branches of its own."""
    pairs = [Versus(f"target: {target}", "AlphaVIL", ["ForkMerge"], "accuracy", "no worse") for target in SIDES]
    return Claim("V2", *SAYS["V2"], "each digit in turn", "and than ForkMerge", "alphavil", "alphavil_ranking", pairs)


def _strategies() -> list[Claim]:
    """G1 and G3 on a competing and a related pair of tasks, G2 on both."""
    study = "loss_weighting_comparison"
    by_size, ranking = (study, f"{study}_gain_by_size"), (study, f"{study}_ranking_left")
    each = [
        Versus(f"target: {pair}, {rows}", method, STRATEGIES[place:], "loss", "different")
        for place, method in enumerate(STRATEGIES[:-1], 1)
        for pair in PAIRS
        for rows in SIZES
    ]
    return [
        *(
            claim
            for pair, where in PAIRS.items()
            for claim in (
                Claim("G1", *SAYS["G1"], where, "", *by_size, [
                    Versus(f"target: {pair}, {rows}", "single task", STRATEGIES, "loss", "no worse") for rows in SIZES
                ], most),
                Claim("G3", *SAYS["G3"], where, "", *by_size, _shrinking_gains(pair)),
            )
        ),
        Claim("G2", *SAYS["G2"], "both pairs", "", *ranking, each, none_best),
    ]  # fmt: skip


_CLAIMS = (
    *_slgrad("label_noise_mnist", ("20%", "40%", "60%"), "label_noise"),
    *_slgrad("label_noise_digits", ("20%", "40%", "60%"), None),
    *_slgrad("label_noise_cifar10", ("40%", "60%"), None),
    *_slgrad("toy_regression", ("30%",), None, known_rate=False),
    *_slgrad("synthetic", ("30%",), "toy_regression", known_rate=False),
    *_published(),
    *_alphavil("V1", ("single task", "Uniform"), "better"),
    *_alphavil("V2", ("DIW",), "no worse"),
    _forkmerge(),
    *(c for data in ("synthetic", *(f"adult, {n} rows" for n in (300, 1000, 3000))) for c in _hydalearn(data)),
    *_strategies(),
    *rivals(SAYS),
    *language_claims(SAYS),
    *ARCHITECTURES,
)
CLAIMS: tuple[Claim, ...] = tuple(sorted(_CLAIMS, key=lambda claim: ("SHVGA".index(claim.id[0]), claim.id)))
"""All claims, in the order of the papers."""
