"""How a claim is judged: from the numbers of its study to comparisons, and from these to a verdict."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mtlkit.levels import CLEAN, CONSTANT, LINEAR, TREES
from mtlkit.stats import LEVEL, contrast
from mtlkit.studies import LATE
from mtlkit.tasks import KINDS, lower_is_better

VERDICTS = (
    *("reproduced", "partly", "undecided", "not reproduced", "opposite", "nothing learned here", "not tested here"),
)
SHARED = "shared rows"
EXCLUDED = ("nothing learned", "cut off", "edge", SHARED)
"""Outcomes of a comparison that may not count towards a verdict."""
TEST_METRICS = {"loss", *(name for kind in KINDS.values() for name in kind.metrics)}
"""What is measured on test rows and has a direction."""
MINIMUM = 10
"""Seeds that a verdict needs."""
LEARNED, MATTERS = 0.1, 0.05
"""Shares of what the best contender gains on the constant: to have learned anything, and to matter."""
DATA = "data"
"""The method under which a table says what holds for all methods of a condition."""
NOT_AVAILABLE = "not available"
NEAR_ZERO = 0.1
"""A noisy label's mean weight counts as near zero below this share of a clean label's."""

DERIVED: dict[str, Callable[[Callable[..., pd.Series]], pd.Series]] = {
    "near_zero_weight": lambda of: (
        NEAR_ZERO * of("noisy_labels") / (1 - of("noisy_labels") + NEAR_ZERO * of("noisy_labels"))
    ),
    "auxiliary_share_change": lambda of: of("auxiliary_share_after") - of("auxiliary_share_before"),
    "share_of_separate_models": lambda of: of("parameters") / of("parameters", "separate models"),
    "log_gain_over_single_task": lambda of: np.log(of("loss", "single task")) - np.log(of("loss")),
}
"""Metrics that follow from those of a table: from a function of a metric, and of another method where one is named."""


class Absent(LookupError):
    """A number that a claim needs and the study does not have."""


@dataclass(frozen=True)
class Versus:
    """What a claim says of a method's test metric against that of others.

    Attributes:
        condition: of the study; one that ends in ``*`` stands for all that begin so.
        against: other methods; one that ends in ``*`` stands for all that begin so.
        wants: ``"better"``, ``"no worse"`` or ``"different"``.
    """

    condition: str
    method: str
    against: Sequence[str]
    metric: str = "loss"
    wants: str = "better"


@dataclass(frozen=True)
class Change:
    """What a claim says of two other numbers, such as shares of weight, which are undefined where a seed has none.

    Attributes:
        condition: as in :class:`Versus`.
        method, against, metric: what the table calls ``ours``, ``theirs`` and the number.
        ours: method and metric, or condition, method and metric where that is another condition.
        theirs: the same, or a number.
        lower: whether lower is better.
        margin: smallest difference that matters.
        learned: method that must have learned something, and further ones that must be trained and tuned as well.
        wants: as in :class:`Versus`.
        given: what must hold by itself for the comparison to be made.
        room: method and metric of the share that is to fall; where it is below the margin from the start, no fall can
            show, and the comparison is unclear.
    """

    condition: str
    method: str
    against: str
    metric: str
    ours: tuple[str, ...]
    theirs: tuple[str, ...] | float
    lower: bool
    margin: float
    learned: Sequence[str]
    wants: str = "better"
    given: Versus | None = None
    room: tuple[str, str] | None = None


class Numbers:
    """The per-seed numbers of one study.

    Args:
        table: condition, method, seed, metric, value; see :func:`companion.tables.protocol_table`.
    """

    def __init__(self, table: pd.DataFrame) -> None:
        self.table = table

    def of(self, condition: str, method: str, metric: str) -> pd.Series:
        """The values by seed, also of a metric of :data:`DERIVED`.

        Raises:
            Absent: there are none.
        """
        if metric in DERIVED:
            return DERIVED[metric](lambda other, by=method: self.of(condition, by, other))
        t = self.table
        rows = t[(t["condition"] == condition) & (t["method"] == method) & (t["metric"] == metric)]
        if rows.empty:
            raise Absent(f"no {metric} of {method} under {condition!r}")
        return rows.set_index("seed")["value"].sort_index()

    def called(self, what: str, pattern: str, condition: str | None = None) -> list[str]:
        """The conditions, or the methods under one, that a pattern stands for, in order of appearance.

        Raises:
            Absent: there are none.
        """
        if not pattern.endswith("*"):
            return [pattern]
        rows = self.table if condition is None else self.table[self.table["condition"] == condition]
        found = [name for name in rows[what].unique() if name.startswith(pattern[:-1])]
        if not found:
            raise Absent(f"no {what} {pattern[:-1]!r}" + ("" if condition is None else f" under {condition!r}"))
        return found

    def means(self, condition: str, metric: str) -> pd.Series:
        """Of a metric over seeds, by method."""
        t = self.table
        rows = t[(t["condition"] == condition) & (t["metric"] == metric)]
        return rows.groupby("method", sort=False)["value"].mean()


def compared(numbers: Numbers, pairs: Sequence[Versus | Change]) -> list[dict[str, object]]:
    """What is compared, a row each: the sides by seed, what the table calls them, and what decides whether they count.

    Raises:
        Absent: a number is missing, or what one of the pairs is about is not there for any.
    """
    rows = []
    for pair in pairs:
        for condition in numbers.called("condition", pair.condition):
            named = {"condition": condition, "method": pair.method, "metric": pair.metric, "wants": pair.wants}
            if isinstance(pair, Versus):
                others = [name for pattern in pair.against for name in numbers.called("method", pattern, condition)]
                rows += [named | _versus(numbers, condition, pair, other) for other in others]
            elif pair.given is None or outcomes(compared(numbers, [pair.given]))["holds"].all():
                rows.append(named | _change(numbers, condition, pair))
    if not rows:
        given = pairs[0].given
        raise Absent(f"nothing is better than {', '.join(given.against)} under {given.condition!r}")
    return rows


def _versus(numbers: Numbers, condition: str, pair: Versus, other: str) -> dict[str, object]:
    ours, theirs = (numbers.of(condition, method, pair.metric) for method in (pair.method, other))
    where = _setting(numbers, condition, [pair.method, other], pair.metric)
    lower = where["lower"]
    better = theirs if (theirs.mean() < ours.mean() if lower else theirs.mean() > ours.mean()) else ours
    try:
        start = numbers.of(condition, other, "loss_at_start")
        moved = bool((numbers.of(condition, other, "loss") != start).any())
    except Absent:
        moved = True
    sides = {"against": other, "ours": ours, "theirs": theirs, "better": better, "moved": moved}
    if pair.metric == "loss":
        where["regrets"] = tuple(numbers.means(condition, "regret").reindex([pair.method, other]))
    return where | sides | {"margin": MATTERS * where["scale"], "sign": -1 if lower else 1, "undefined": False}


def _change(numbers: Numbers, condition: str, pair: Change) -> dict[str, object]:
    named = [(condition, *side)[-3:] for side in (pair.ours, pair.theirs) if isinstance(side, tuple)]
    ours, *theirs = (numbers.of(*side) for side in named)
    sides = {
        "against": pair.against,
        "ours": ours,
        "theirs": theirs[0] if theirs else pd.Series(float(pair.theirs), ours.index),
        "moved": True,
    }
    where, *others = (
        _setting(numbers, place, pair.learned, "loss") | {"better": numbers.of(place, pair.learned[0], "loss")}
        for place in dict.fromkeys([condition, *(side[0] for side in named)])
    )
    where["others"] = others
    room = np.inf if pair.room is None else numbers.of(condition, *pair.room).mean()
    return where | sides | {"margin": pair.margin, "sign": -1 if pair.lower else 1, "undefined": True, "room": room}


def _setting(numbers: Numbers, condition: str, methods: Sequence[str], metric: str) -> dict[str, object]:
    """What decides whether a comparison between ``methods`` counts.

    Returns:
        ``constant`` (values by seed of the best constant), ``scale`` (what the best contender gains on it, or loses),
        ``linear_mean`` (of the better linear model, NaN if there is none), ``lower`` (whether that is better in the
        metric), ``late`` (largest share of late seeds), ``edge`` (whether a rate is at the edge of its grid), ``steps``
        (the larger cap), ``overlap`` (n_test / n_train where seeds share rows, else 0) and ``regrets`` (what the
        choice of rate and variant cost each side in test loss; NaN for other numbers).

    Raises:
        Absent: no constant, or no statement on shared rows.
    """
    constant, lower = numbers.of(condition, CONSTANT, metric), lower_is_better(metric)
    means = numbers.means(condition, metric)
    contenders, linear = means.drop([CONSTANT, LINEAR, CLEAN, TREES], errors="ignore"), means.reindex([LINEAR, CLEAN])
    best = [found.min() if lower else found.max() for found in (contenders, linear)]
    late, edge, steps = (numbers.means(condition, what).reindex(methods).max() for what in ("late", "edge", "steps"))
    return {
        "constant": constant,
        "scale": abs(constant.mean() - best[0]),
        "linear_mean": best[1],
        "lower": lower,
        "late": 0.0 if np.isnan(late) else float(late),
        "edge": edge > 0,
        "steps": steps,
        "overlap": numbers.of(condition, DATA, "overlap").mean(),
        "regrets": (np.nan, np.nan),
        "margin": 0.0,
    }


def that_count(rows: Sequence[dict[str, object]]) -> list[dict[str, object]]:
    """Each opponent once: without those that equal an earlier one in every bit, or never left their start like one."""
    kept: list[dict[str, object]] = []
    for row in rows:
        alike = [other for other in kept if all(other[key] == row[key] for key in ("condition", "method", "metric"))]
        same = not row["undefined"] and any(row["theirs"].equals(other["theirs"]) for other in alike)
        if not same and (row["moved"] or all(other["moved"] for other in alike)):
            kept.append(row)
    return kept


def outcomes(rows: Sequence[dict[str, object]]) -> pd.DataFrame:
    """Test what is compared: a row each.

    Returns:
        condition, method, against, metric, wants, ours, theirs (means of pairs), difference (ours minus theirs) with
        its 95 % interval ``low`` and ``high`` (not corrected), p, margin, constant, linear_model, seeds, steps (the
        larger cap), missing (seeds of the method without a value; of numbers that may be undefined, of either side),
        late, overlap, linear ("ahead" if a linear model is better than the better side by the margin, "as good",
        "behind", or "not available"), rate ("decides" if the best of the rates and variants that a side tried would
        take the outcome away, "stands", or "not available"), p_holm (over the comparisons that decide), outcome
        (better, worse, level, unclear, or why it does not decide: :data:`EXCLUDED`), holds, denied (the interval
        leaves no room for the claim), reverse, and support (the difference in the claim's favour over the width of
        its interval).

    Raises:
        ValueError: the sides of a row have different seeds.
    """
    for row in rows:
        if set(row["theirs"].index) != set(row["ours"].index):
            raise ValueError(
                f"{row['method']} has seeds {sorted(row['ours'].index)} and {row['against']} "
                f"{sorted(row['theirs'].index)} under {row['condition']!r}, expected the same"
            )
    why = _excluded(rows)
    decide = [n for n in range(len(rows)) if not why[n]]
    others = [n for n in range(len(rows)) if why[n]]
    tested = pd.concat([_contrast(rows, decide), _contrast(rows, others).assign(p_holm=np.nan)]).loc[range(len(rows))]
    return pd.DataFrame(
        [_outcome(row, test, reason) for row, (_, test), reason in zip(rows, tested.iterrows(), why, strict=True)]
    )


def _contrast(
    rows: Sequence[dict[str, object]], which: Sequence[int], ours: str = "ours", theirs: str = "theirs"
) -> pd.DataFrame:
    table = pd.DataFrame({(side, n): rows[n][side] for n in which for side in (ours, theirs)})
    options = {name: [rows[n][name] for n in which] for name in ("margin", "overlap")}
    return contrast(table, [((ours, n), (theirs, n)) for n in which], **options).set_axis(which)


def _excluded(rows: Sequence[dict[str, object]]) -> list[str]:
    """Why each row may not count, or nothing: its better side has not learned, it was cut off, or not tuned.

    Of a row with sides under several conditions, under any of them. Where only the rows that seeds share leave open
    whether it has learned, that is said.
    """
    several = range(len(rows))
    tests = _contrast(rows, several, "constant", "better")
    apart = _contrast([row | {"overlap": 0.0} for row in rows], several, "constant", "better")
    found = []
    for row, (_, ahead), alone in zip(rows, tests.iterrows(), apart["p"], strict=True):
        gained = ahead["difference"] * (1 if row["lower"] else -1)
        enough = gained > 0 and gained >= LEARNED * row["scale"]
        if not (enough and alone < LEVEL):
            why = EXCLUDED[0]
        elif ahead["p"] >= LEVEL:
            why = SHARED
        else:
            why = "cut off" if row["late"] > LATE else "edge" if row["edge"] else ""
        found.append(why or next(filter(None, _excluded(row.get("others", []))), ""))
    return found


def _judged(
    outcome: str, gain: float, interval: tuple[float, float], margin: float, wants: str, regrets: Sequence[float]
) -> tuple[str, bool, bool, bool]:
    """Whether a comparison holds, is denied, or the reverse holds, also at the best of the rates that were tried.

    Args:
        gain, interval: in favour of the method.
        regrets: what the choice cost the method, and the other side.

    Returns:
        the outcome, unclear where a better choice would leave less than the margin; holds, denied, reverse.
    """
    ours, theirs = regrets
    no_worse = (outcome == "better" or interval[0] > -margin) and gain - theirs > -margin
    if (outcome == "better" and gain - theirs < margin) or (outcome == "worse" and gain + ours > -margin):
        outcome = "unclear"
    better, worse, level = (outcome == name for name in ("better", "worse", "level"))
    holds = {"better": better, "no worse": no_worse, "different": better or worse}[wants]
    denied = {"better": interval[1] + ours < margin, "no worse": worse, "different": level}[wants]
    return outcome, holds, denied, worse and wants != "different"


def _outcome(row: dict[str, object], test: pd.Series, why: str) -> dict[str, object]:
    sign, margin, wants = row["sign"], row["margin"], row["wants"]
    lacks, theirs_lack = (~np.isfinite(row[side]) for side in ("ours", "theirs"))
    missing = int((lacks | theirs_lack if row["undefined"] else lacks).sum())
    gain = sign * test["difference"]
    interval = tuple(sorted((sign * test["low"], sign * test["high"])))
    better, worse = ("above", "below") if sign > 0 else ("below", "above")
    outcome = {better: "better", worse: "worse"}.get(test["outcome"], test["outcome"])
    if row.get("room", np.inf) < margin:
        told, rate = ("unclear", False, False, False), NOT_AVAILABLE
    elif not row["undefined"] and (missing or theirs_lack.any()):
        ahead = theirs_lack.all() or outcome == "better"
        told = ("unclear", False, True, False) if missing else ("better", True, False, False)
        told = told if missing or ahead else ("unclear", False, False, False)
        rate = NOT_AVAILABLE
    else:
        as_tuned, told = (
            _judged(outcome, gain, interval, margin, wants, regrets)
            for regrets in ((0.0, 0.0), np.nan_to_num(row["regrets"]))
        )
        rate = NOT_AVAILABLE if np.isnan(row["regrets"]).all() else "stands" if told == as_tuned else "decides"
    outcome, holds, denied, reverse = told
    wanted = {"better": gain, "no worse": gain + margin, "different": abs(gain)}[wants]
    spread = test["high"] - test["low"]
    behind = (row["linear_mean"] - row["better"].mean()) * (1 if row["lower"] else -1)
    return {
        **{name: row[name] for name in ("condition", "method", "against", "metric", "wants")},
        **test[["ours", "theirs", "difference", "low", "high", "p"]],
        "margin": margin,
        "constant": row["constant"].mean(),
        "linear_model": row["linear_mean"],
        "seeds": len(row["ours"]),
        "steps": row["steps"],
        "missing": missing,
        "late": row["late"],
        "overlap": row["overlap"],
        "linear": NOT_AVAILABLE if np.isnan(behind) else _place(behind, MATTERS * row["scale"]),
        "rate": rate,
        "p_holm": test["p_holm"],
        "outcome": why or outcome,
        "holds": holds and not why,
        "denied": denied and not holds and not why,
        "reverse": reverse and not why,
        "support": wanted / max(spread, 1e-12) if np.isfinite(spread) else -np.inf,
    }


def _place(behind: float, margin: float) -> str:
    return "behind" if behind > margin else "ahead" if behind < -margin else "as good"


def every(found: pd.DataFrame) -> str:
    """The claim is about all its comparisons."""
    return _verdict(found, partly=found["holds"].mean() >= 0.5)


def first(found: pd.DataFrame) -> str:
    """The claim is about its first comparison and reproduced if the others hold too; partly if they do not."""
    return _verdict(found, partly=found["holds"].iloc[0])


def most(found: pd.DataFrame) -> str:
    """The claim says "typically": more than half of its comparisons; partly from a quarter on."""
    return _verdict(found, partly=found["holds"].mean() >= 0.25, share=0.5)


def _verdict(found: pd.DataFrame, partly: bool, share: float | None = None) -> str:
    """Reproduced or opposite if more than ``share`` of the comparisons say so, all of them where that is None."""
    for verdict, column in (("reproduced", "holds"), ("opposite", "reverse")):
        if found[column].all() if share is None else found[column].mean() > share:
            return verdict
    return "partly" if partly else "not reproduced"


def none_best(found: pd.DataFrame) -> str:
    """The claim says that no method is best everywhere: each is beaten by another in some comparison.

    Partly if that is so for at least half of them; opposite if one is beaten nowhere and beats every other
    one somewhere.
    """
    sides = {"better": ("method", "against"), "worse": ("against", "method")}
    wins = {(row[sides[o][0]], row[sides[o][1]]) for _, row in found.iterrows() if (o := row["outcome"]) in sides}
    methods = {*found["method"], *found["against"]}
    beaten = {loser for _, loser in wins}
    if beaten == methods:
        return "reproduced"
    if any({loser for winner, loser in wins if winner == best} == methods - {best} for best in methods - beaten):
        return "opposite"
    return "partly" if len(beaten) >= len(methods) / 2 else "not reproduced"


@dataclass(frozen=True)
class Claim:
    """What a paper says, and how it is tested here: a row of data.

    Attributes:
        id: such as ``S1``.
        source: the paper.
        sentence: what it says, in our words.
        where: on what it is tested, such as ``60% label noise``.
        what: against what, or what else is peculiar to the test; empty where nothing is.
        study: whose per-seed numbers are read.
        figure: file name of the picture, without ending, in the study's folder.
        pairs: what is compared.
        rule: from the tested comparisons to a verdict.
        paper: the paper's own number, where it is known.
        notebook: whose stored copy shows the study; the study's own name when empty, none when None.
    """

    id: str
    source: str
    sentence: str
    where: str
    what: str
    study: str
    figure: str
    pairs: Sequence[Versus | Change]
    rule: Callable[[pd.DataFrame], str] = every
    paper: str = NOT_AVAILABLE
    notebook: str | None = ""

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
        rows = that_count(compared(Numbers(table), claim.pairs))
    except Absent as absent:
        return untested, str(absent), pd.DataFrame()
    seeds = min(map(_counted, rows))
    if seeds < MINIMUM:
        return untested, f"{seeds} seeds, at least {MINIMUM} are needed", pd.DataFrame()
    found = outcomes(rows)
    out = found[found["outcome"].isin(EXCLUDED)]
    deciding = found.drop(out.index)
    counts = ", ".join(f"{why}: {n}" for why, n in out["outcome"].value_counts(sort=False).items())
    note = f"of {len(found)} comparisons do not count: {counts}" if counts else ""
    if deciding.empty:
        reasons = set(out["outcome"])
        if reasons == {EXCLUDED[0]}:
            return VERDICTS[-2], note, found
        return "undecided" if reasons <= {EXCLUDED[0], SHARED} else untested, note, found
    verdict = claim.rule(deciding)
    if verdict == "not reproduced" and not deciding["denied"].any():
        return "undecided", note, found
    if deciding["missing"].any():
        lesser = {"reproduced": "partly", "opposite": "not reproduced"}.get(verdict, verdict)
        return lesser, f"{deciding['missing'].max()} of {len(rows[0]['ours'])} seeds have no value", found
    return verdict, note, found


test.__test__ = False


def _counted(row: dict[str, object]) -> int:
    """Seeds; of numbers that may be undefined, those that have both."""
    both = np.isfinite(row["ours"]) & np.isfinite(row["theirs"])
    return int(both.sum()) if row["undefined"] else len(both)
