"""How a claim is tested: comparisons over seeds, and the verdict that follows; see :mod:`companion.claims`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from mtlkit.stats import holm

VERDICTS = ("reproduced", "partly", "not reproduced", "opposite", "nothing learned here", "not tested here")
UNDECIDED = ("nothing learned", "cut off", "edge")
"""Outcomes of a comparison that may not count towards a verdict."""
MINIMUM = 10
"""Seeds that a verdict needs."""
LEVEL = 0.05
LATE = 0.2
"""Largest share of seeds that may select an epoch in the last tenth of their cap."""
LEARNED, MATTERS = 0.1, 0.05
"""Shares of what the best contender gains on the constant: to have learned anything, and to matter."""
SHARES = {"auxiliary_share": 0.05, "noisy_weight": 0.05}
"""Smallest difference that matters between shares of weight."""
HIGHER_IS_BETTER = ("accuracy", "roc_auc", "average_precision")
CONSTANT, LINEAR, FLOORS = "constant", ("linear model", "linear model, clean rows"), ("boosted trees",)
DATA = "data"
"""The method under which a table says what holds for all methods of a condition."""
NOT_AVAILABLE = "not available"


class Absent(LookupError):
    """A number that a claim needs and the study does not have."""


class Numbers:
    """The per-seed numbers of one study.

    Args:
        table: condition, method, seed, metric, value; see :func:`companion.tables.protocol_table`.
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

    def contenders(self, condition: str, metric: str) -> pd.Series:
        """Means of a metric over seeds by method, without floors."""
        t = self.table
        rows = t[(t["condition"] == condition) & (t["metric"] == metric)]
        rows = rows[~rows["method"].isin([CONSTANT, *LINEAR, *FLOORS])]
        return rows.groupby("method", sort=False)["value"].mean()

    def share(self, condition: str, methods: Sequence[str], metric: str) -> float:
        """The largest mean of a metric such as ``late`` among methods; 0 for those that have none."""
        t = self.table
        rows = t[(t["condition"] == condition) & (t["metric"] == metric) & t["method"].isin(methods)]
        return float(rows.groupby("method")["value"].mean().max()) if len(rows) else 0.0


@dataclass(frozen=True)
class Setting:
    """What decides whether a comparison counts, and how it is tested.

    Attributes:
        constant: values by seed of the best constant.
        best: mean of the best contender in that metric.
        linear: mean of the better linear model, NaN if there is none.
        lower: whether lower is better in that metric.
        late: largest share of late seeds among the methods compared.
        edge: whether one of their learning rates is at the edge of the grid.
        overlap: n_test / n_train where seeds share rows, else 0.
        own: values by seed of what must have learned; the better side of the comparison when None.
    """

    constant: pd.Series
    best: float
    linear: float
    lower: bool
    late: float
    edge: bool
    overlap: float
    own: pd.Series | None = None

    @property
    def scale(self) -> float:
        """What the best contender gains on the constant, or loses."""
        return abs(self.constant.mean() - self.best)


def setting(numbers: Numbers, condition: str, methods: Sequence[str], metric: str, own: str | None = None) -> Setting:
    """The setting of a comparison between ``methods``; with ``own``, of one that is not about a test metric.

    Raises:
        Absent: no constant, or no statement on shared rows.
    """
    lower = metric not in HIGHER_IS_BETTER
    means = numbers.contenders(condition, metric)
    linear = [numbers.of(condition, m, metric).mean() for m in LINEAR if m in numbers.methods(condition)]
    return Setting(
        numbers.of(condition, CONSTANT, metric),
        means.min() if lower else means.max(),
        (min if lower else max)(linear) if linear else np.nan,
        lower,
        numbers.share(condition, methods, "late"),
        numbers.share(condition, methods, "edge") > 0,
        numbers.of(condition, DATA, "overlap").mean(),
        None if own is None else numbers.of(condition, own, metric),
    )


@dataclass(frozen=True)
class Comparison:
    """One thing that a claim says of one pair.

    Attributes:
        ours: values by seed of what the claim is about.
        theirs: values by seed, with the same seeds, of what it is compared with; a number for a threshold.
        lower: whether lower is better.
        margin: smallest difference that matters.
        setting: see :class:`Setting`.
        wants: ``"better"``, ``"no worse"`` or ``"different"``.
        infinite: whether a missing value means that the seed diverged (else: that it is undefined).
        moved: whether the opponent ever left its start.
    """

    condition: str
    method: str
    against: str
    metric: str
    ours: pd.Series
    theirs: pd.Series | float
    lower: bool
    margin: float
    setting: Setting
    wants: str = "better"
    infinite: bool = True
    moved: bool = True


def versus(
    numbers: Numbers, condition: str, method: str, others: Sequence[str], metric: str, wants: str = "better"
) -> list[Comparison]:
    """A method's test metric against that of each of the others."""
    ours = numbers.of(condition, method, metric)
    found = []
    for other in others:
        theirs = numbers.of(condition, other, metric)
        where = setting(numbers, condition, [method, other], metric)
        margin = MATTERS * where.scale
        moved = _moved(numbers, condition, other)
        found.append(
            Comparison(condition, method, other, metric, ours, theirs, where.lower, margin, where, wants, moved=moved)
        )
    return found


def _moved(numbers: Numbers, condition: str, method: str) -> bool:
    try:
        return bool((numbers.of(condition, method, "loss") != numbers.of(condition, method, "loss_at_start")).any())
    except Absent:
        return True


def counted(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Each opponent once: without those that equal an earlier one in every bit, or never left their start like one."""
    kept: list[Comparison] = []
    for c in comparisons:
        alike = [o for o in kept if (o.condition, o.method, o.metric) == (c.condition, c.method, c.metric)]
        same = any(isinstance(c.theirs, pd.Series) and c.theirs.equals(o.theirs) for o in alike)
        if not same and (c.moved or all(o.moved for o in alike)):
            kept.append(c)
    return kept


def outcomes(comparisons: Sequence[Comparison]) -> pd.DataFrame:
    """Test each comparison: a row each.

    Returns:
        condition, method, against, metric, wants, ours, theirs (means of pairs), difference (ours minus
        theirs) with its 95 % interval ``low`` and ``high`` (not corrected), p, p_holm (over the comparisons that
        decide), margin, seeds, missing (seeds of the method without a value), late, overlap, linear ("as good" if a
        linear model is at most the margin behind the better side, "behind", or "not available"), outcome (better,
        worse, level, unclear, or why it does not decide: nothing learned, cut off, edge), holds, reverse, and
        support (the difference in the claim's favour over the width of its interval).
    """
    rows = [_measure(c) for c in comparisons]
    deciding = [row for row in rows if not row["_undecided"]]
    for row in rows:
        row["p_holm"] = np.nan
    for row, p in zip(deciding, holm([row["p"] for row in deciding]), strict=True):
        row["p_holm"] = p
    return pd.DataFrame([_judge(row) for row in rows])


def corrected(differences: np.ndarray, overlap: float) -> tuple[float, float, float]:
    """Mean, standard error and two-sided p of paired differences over runs, which may share rows.

    The variance of the mean is s² (1/n + ``overlap``), after Nadeau and Bengio, *Inference for the generalization
    error*, Machine Learning 52 (2003), with ``overlap`` = n_test / n_train; the usual t-test where it is 0.
    """
    n = len(differences)
    mean = differences.mean() if n else np.nan
    error = differences.std(ddof=1) * np.sqrt(1 / n + overlap) if n > 1 else np.nan
    p = 2 * stats.t.sf(abs(mean / error), n - 1) if error > 0 else float(mean == 0) if error == 0 else np.nan
    return mean, error, p


def undecided(better: pd.Series, where: Setting) -> str:
    """Why a comparison may not count, or nothing: its better side has not learned, it was cut off, or not tuned."""
    ahead = (where.constant - better) * (1 if where.lower else -1)
    ahead = ahead[np.isfinite(ahead)].to_numpy()
    mean, _, p = corrected(ahead, where.overlap)
    if not (mean >= LEARNED * where.scale and mean > 0 and p < LEVEL):
        return "nothing learned"
    if where.late > LATE:
        return "cut off"
    return "edge" if where.edge else ""


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
    mean, error, p = corrected(difference, c.setting.overlap)
    half = stats.t.ppf(0.975, n - 1) * error if n > 1 else np.nan
    better = c.setting.own
    if better is None:
        better = theirs if (theirs.mean() - c.ours.mean()) * (1 if c.lower else -1) < 0 else c.ours
    gap = (c.setting.linear - better.mean()) * (1 if c.setting.lower else -1)
    linear = "behind" if gap > MATTERS * c.setting.scale else "as good"
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
        "late": c.setting.late,
        "overlap": c.setting.overlap,
        "linear": "not available" if np.isnan(gap) else linear,
        "_theirs_missing": int((~np.isfinite(theirs)).sum()),
        "_lower": c.lower,
        "_infinite": c.infinite,
        "_undecided": undecided(better, c.setting),
    }


def _judge(row: dict[str, object]) -> dict[str, object]:
    sign = -1 if row.pop("_lower") else 1
    infinite, theirs_missing, why = row.pop("_infinite"), row.pop("_theirs_missing"), row.pop("_undecided")
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
    if why:
        outcome, holds, reverse = why, False, False
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
        where: on what it is tested, such as ``60% label noise``.
        what: against what, or what else is peculiar to the test; empty where nothing is.
        study: whose per-seed numbers are read.
        figure: file name of the picture, without ending, in the study's folder.
        comparisons: from a study's numbers to what is compared.
        rule: from the tested comparisons to a verdict.
        paper: the paper's own number, where it is known.
        notebook: that shows the study; the study's own name when empty.
    """

    id: str
    source: str
    sentence: str
    where: str
    what: str
    study: str
    figure: str
    comparisons: Callable[[Numbers], list[Comparison]]
    rule: Callable[[pd.DataFrame], str] = every
    paper: str = NOT_AVAILABLE
    notebook: str = ""

    @property
    def setting(self) -> str:
        """How it is tested; several settings of one claim have a verdict each."""
        return ", ".join(part for part in (self.where, self.what) if part)


def test(claim: Claim, table: pd.DataFrame | None) -> tuple[str, str, pd.DataFrame]:
    """Test one claim.

    Args:
        table: the per-seed numbers of its study at full scale, None where there are none.

    Returns:
        the verdict, a note (empty, or why there is no verdict, or what does not count), and the comparisons as
        in :func:`outcomes`.
    """
    untested = VERDICTS[-1]
    if table is None:
        return untested, "not yet run at full scale", pd.DataFrame()
    try:
        comparisons = counted(claim.comparisons(Numbers(table)))
    except Absent as absent:
        return untested, str(absent), pd.DataFrame()
    seeds = min(len(c.ours) for c in comparisons)
    if seeds < MINIMUM:
        return untested, f"{seeds} seeds, at least {MINIMUM} are needed", pd.DataFrame()
    found = outcomes(comparisons)
    out = found[found["outcome"].isin(UNDECIDED)]
    deciding = found.drop(out.index)
    counts = ", ".join(f"{why}: {n}" for why, n in out["outcome"].value_counts(sort=False).items())
    note = f"of {len(found)} comparisons do not count: {counts}" if counts else ""
    if deciding.empty:
        return VERDICTS[-2] if set(out["outcome"]) == {UNDECIDED[0]} else untested, note, found
    verdict = claim.rule(deciding)
    if verdict == "reproduced" and deciding["missing"].any():
        return "partly", f"{deciding['missing'].max()} of {seeds} seeds have no value", found
    return verdict, note, found


test.__test__ = False
