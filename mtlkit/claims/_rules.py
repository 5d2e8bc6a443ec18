"""How a claim is tested: comparisons over seeds, and the verdict that follows; see :mod:`mtlkit.claims`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from mtlkit.results import holm

VERDICTS = ("reproduced", "partly", "not reproduced", "opposite", "not tested here")
MINIMUM = {"quick": 10, "paper": 5}
"""Seeds that a verdict needs at each scale."""
LEVEL = 0.05
RELATIVE = {"loss": 0.1, "rmse": 0.1}
ABSOLUTE = {"accuracy": 0.01, "roc_auc": 0.01, "average_precision": 0.01, "auxiliary_share": 0.05, "noisy_weight": 0.05}
MARGINS = {**RELATIVE, **ABSOLUTE}
"""Smallest difference that matters: of a loss as a share of the other's mean, else the difference itself."""
HIGHER_IS_BETTER = ("accuracy", "roc_auc", "average_precision")
NOT_AVAILABLE = "not available"


class Absent(LookupError):
    """A number that a claim needs and the study does not have."""


class Numbers:
    """The per-seed numbers of one study.

    Args:
        table: condition, method, seed, metric, value; see :func:`mtlkit.studies.per_seed_table`.
    """

    def __init__(self, table: pd.DataFrame) -> None:
        self.table = table

    def of(self, condition: str, method: str, metric: str) -> pd.Series:
        """The values by seed.

        Raises:
            Absent: there are none.
        """
        t = self.table
        rows = t[(t["condition"] == condition) & (t["method"] == method) & (t["metric"] == metric)]
        if rows.empty:
            raise Absent(f"no {metric} of {method} under {condition!r}")
        return rows.set_index("seed")["value"].sort_index()

    def conditions(self, start: str = "") -> list[str]:
        """The conditions whose name starts so, in order of appearance.

        Raises:
            Absent: there are none.
        """
        found = [c for c in self.table["condition"].unique() if c.startswith(start)]
        if not found:
            raise Absent(f"no condition {start!r}")
        return found

    def methods(self, condition: str, start: str = "") -> list[str]:
        """The methods under a condition whose name starts so, in order of appearance.

        Raises:
            Absent: there are none.
        """
        rows = self.table[self.table["condition"] == condition]
        found = [m for m in rows["method"].unique() if m.startswith(start)]
        if not found:
            raise Absent(f"no method {start!r} under {condition!r}")
        return found


@dataclass(frozen=True)
class Comparison:
    """One thing that a claim says of one pair.

    Attributes:
        ours: values by seed of what the claim is about.
        theirs: values by seed, with the same seeds, of what it is compared with; a number for a threshold.
        lower: whether lower is better.
        wants: ``"better"``, ``"no worse"`` or ``"different"``.
        margin: smallest difference that matters.
        infinite: whether a missing value means that the seed diverged (else: that it is undefined).
    """

    condition: str
    method: str
    against: str
    metric: str
    ours: pd.Series
    theirs: pd.Series | float
    lower: bool
    margin: float
    wants: str = "better"
    infinite: bool = True


def versus(
    numbers: Numbers, condition: str, method: str, others: Sequence[str], metric: str, wants: str = "better"
) -> list[Comparison]:
    """A method's test metric against that of each of the others."""
    ours = numbers.of(condition, method, metric)
    found = []
    for other in others:
        theirs = numbers.of(condition, other, metric)
        margin = RELATIVE[metric] * theirs.mean() if metric in RELATIVE else ABSOLUTE[metric]
        lower = metric not in HIGHER_IS_BETTER
        found.append(Comparison(condition, method, other, metric, ours, theirs, lower, margin, wants))
    return found


def outcomes(comparisons: Sequence[Comparison]) -> pd.DataFrame:
    """Test each comparison: a row each.

    Returns:
        condition, method, against, metric, wants, ours, theirs (means of pairs), difference (ours minus
        theirs) with its 95 % interval ``low`` and ``high`` (not corrected), p, p_holm, margin, seeds, missing (seeds
        of the method without a value), outcome (better, worse, level, unclear), holds, reverse, and support (the
        difference in the claim's favour over the width of its interval).
    """
    rows = [_measure(c) for c in comparisons]
    for row, p in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p_holm"] = p
    return pd.DataFrame([_judge(row) for row in rows])


def _measure(c: Comparison) -> dict[str, object]:
    theirs = c.theirs if isinstance(c.theirs, pd.Series) else pd.Series(float(c.theirs), c.ours.index)
    if set(theirs.index) != set(c.ours.index):
        raise ValueError(
            f"{c.method} has seeds {sorted(c.ours.index)} and {c.against} {sorted(theirs.index)} "
            f"under {c.condition!r}, expected the same"
        )
    paired = np.isfinite(c.ours - theirs)
    difference = (c.ours - theirs)[paired].to_numpy()
    n = len(difference)
    mean = difference.mean() if n else np.nan
    error = difference.std(ddof=1) / np.sqrt(n) if n > 1 else np.nan
    half = stats.t.ppf(0.975, n - 1) * error if n > 1 else np.nan
    p = 2 * stats.t.sf(abs(mean / error), n - 1) if error > 0 else float(mean == 0) if error == 0 else np.nan
    return {
        "condition": c.condition,
        "method": c.method,
        "against": c.against,
        "metric": c.metric,
        "wants": c.wants,
        "ours": c.ours[paired].mean(),
        "theirs": theirs[paired].mean(),
        "difference": mean,
        "low": mean - half,
        "high": mean + half,
        "p": p,
        "margin": c.margin,
        "seeds": len(c.ours),
        "missing": int((~np.isfinite(c.ours)).sum()),
        "_theirs_missing": int((~np.isfinite(theirs)).sum()),
        "_lower": c.lower,
        "_infinite": c.infinite,
    }


def _judge(row: dict[str, object]) -> dict[str, object]:
    sign = -1 if row.pop("_lower") else 1
    infinite, theirs_missing = row.pop("_infinite"), row.pop("_theirs_missing")
    gain = sign * row["difference"]
    worst = min(sign * row["low"], sign * row["high"])
    best = max(sign * row["low"], sign * row["high"])
    significant = row["p_holm"] < LEVEL
    if infinite and (row["missing"] or theirs_missing):
        outcome = "unclear" if row["missing"] else "better"
        no_worse = outcome == "better"
    else:
        outcome = "unclear"
        if significant and gain >= row["margin"]:
            outcome = "better"
        elif significant and -gain >= row["margin"]:
            outcome = "worse"
        elif worst > -row["margin"] and best < row["margin"]:
            outcome = "level"
        no_worse = outcome == "better" or worst > -row["margin"]
    holds = {
        "better": outcome == "better",
        "no worse": no_worse,
        "different": outcome in ("better", "worse"),
    }[row["wants"]]
    reverse = outcome == "worse" and row["wants"] != "different"
    wanted = {"better": gain, "no worse": gain + row["margin"], "different": abs(gain)}[row["wants"]]
    spread = best - worst
    support = wanted / max(spread, 1e-12) if np.isfinite(spread) else -np.inf
    return {**row, "outcome": outcome, "holds": holds, "reverse": reverse, "support": support}


def every(found: pd.DataFrame) -> str:
    """The claim is about all its comparisons."""
    if found["holds"].all():
        return "reproduced"
    if found["reverse"].all():
        return "opposite"
    return "partly" if found["holds"].mean() >= 0.5 else "not reproduced"


def first(found: pd.DataFrame) -> str:
    """The claim is about its first comparison and reproduced if the others hold too; partly if they do not."""
    if found["holds"].all():
        return "reproduced"
    if found["reverse"].all():
        return "opposite"
    return "partly" if found["holds"].iloc[0] else "not reproduced"


def most(found: pd.DataFrame) -> str:
    """The claim says "typically": more than half of its comparisons; partly from a quarter on."""
    if found["holds"].mean() > 0.5:
        return "reproduced"
    if found["reverse"].mean() > 0.5:
        return "opposite"
    return "partly" if found["holds"].mean() >= 0.25 else "not reproduced"


def none_best(found: pd.DataFrame) -> str:
    """The claim says that no method is best everywhere: each is beaten by another in some comparison.

    Partly if that is so for at least half of them; opposite if one is beaten nowhere and beats every other
    one somewhere.
    """
    better, worse = (found[found["outcome"] == outcome] for outcome in ("better", "worse"))
    wins = {
        *zip(better["method"], better["against"], strict=True),
        *zip(worse["against"], worse["method"], strict=True),
    }
    methods = {*found["method"], *found["against"]}
    beaten = {loser for _, loser in wins}
    if beaten == methods:
        return "reproduced"
    if any({loser for winner, loser in wins if winner == best} == methods - {best} for best in methods - beaten):
        return "opposite"
    return "partly" if len(beaten) >= len(methods) / 2 else "not reproduced"


@dataclass(frozen=True)
class Claim:
    """What a paper says, and how it is tested here.

    Attributes:
        id: such as ``S1``.
        source: the paper.
        sentence: what it says, in our words.
        setting: how it is tested; several settings of one claim have a verdict each.
        study: whose per-seed numbers are read.
        figure: file name of the picture, without ending, in the study's folder.
        comparisons: from a study's numbers to what is compared.
        rule: from the tested comparisons to a verdict.
        paper: the paper's own number, where it is known.
    """

    id: str
    source: str
    sentence: str
    setting: str
    study: str
    figure: str
    comparisons: Callable[[Numbers], list[Comparison]]
    rule: Callable[[pd.DataFrame], str] = every
    paper: str = NOT_AVAILABLE


def test(claim: Claim, table: pd.DataFrame | None, scale: str) -> tuple[str, str, pd.DataFrame]:
    """Test one claim.

    Args:
        table: the per-seed numbers of its study, None where there are none.
        scale: ``"quick"`` or ``"paper"``.

    Returns:
        the verdict, a note (empty or why there is no verdict), and the comparisons as in :func:`outcomes`.
    """
    untested = VERDICTS[-1]
    if table is None:
        return untested, "the study has not been run at this scale", pd.DataFrame()
    try:
        comparisons = claim.comparisons(Numbers(table))
    except Absent as absent:
        return untested, str(absent), pd.DataFrame()
    seeds = min(len(c.ours) for c in comparisons)
    if seeds < MINIMUM[scale]:
        return untested, f"{seeds} seeds, at least {MINIMUM[scale]} are needed", pd.DataFrame()
    found = outcomes(comparisons)
    verdict = claim.rule(found)
    if verdict == "reproduced" and found["missing"].any():
        return "partly", f"{found['missing'].max()} of {seeds} seeds have no value", found
    return verdict, "", found


test.__test__ = False
