"""One call from a table to what to do."""

from __future__ import annotations

import html
import math
import numbers
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mtlkit.advice._figure import dots
from mtlkit.advice._levels import (
    CONSTANT,
    EQUAL,
    LINEAR,
    SINGLE,
    TREES,
    WITH,
    Effort,
    fit_on_all,
    network_with,
    scorer,
    try_levels,
)
from mtlkit.advice._models import Model
from mtlkit.advice._paired import judged, promise, rows_needed
from mtlkit.advice._prepare import Roles, prepare
from mtlkit.advice._read import Refused
from mtlkit.advice._suspects import SHARE, suspects

EFFORTS = ("quick", "default", "thorough")


@dataclass(frozen=True, repr=False)
class Advice:
    """What to do with a table, and why.

    Attributes:
        use: the verdict.
        levels: what every level reaches on held-out rows, the best first: ``mean``; ``low`` to ``high``, in which the
            score on as many new rows as a fold has should lie; ``difference`` from the recommended one with its
            95 % interval (``difference low`` to ``difference high``), ``p`` (adjusted after Holm among those that are
            simpler, and among those that are not) and ``verdict``.
        helps: networks that learn the auxiliaries too against one that does not: ``difference``, ``low``, ``high``,
            ``p`` (Holm), ``verdict``. Empty without auxiliaries.
        which: the same for each auxiliary by itself, with equal weights and the learning rate of the main task alone;
            the verdict is helps, hurts or no difference.
        suspects: rows whose label the other rows contradict, the most suspect first (``row`` from 0).
        check: how well several rankings found labels that were made wrong on purpose; the first one ordered
            ``suspects``.
        columns: what each column was taken for.
        warnings: what to know before believing the above.
        model: the recommended level fitted on all rows, with ``predict`` and ``save``.
        metric: what decides: "ROC AUC", "accuracy", "balanced accuracy", or "rmse" in the main column's units.
        answers: sentences on helps, which and suspects.
    """

    use: str
    levels: pd.DataFrame
    helps: pd.DataFrame
    which: pd.DataFrame
    suspects: pd.DataFrame
    check: pd.DataFrame
    columns: pd.DataFrame
    warnings: list[str]
    model: Model
    metric: str
    answers: list[str]

    def __str__(self) -> str:
        parts = [self.use, *self.answers, *(f"Warning: {text}." for text in self.warnings)]
        return "\n\n".join([*map(textwrap.fill, parts), self._shown().to_string()])

    __repr__ = __str__

    def _shown(self) -> pd.DataFrame:
        table = self.levels.assign(p=self.levels["p"].map("{:.2g}".format))
        table = table.map(lambda value: f"{value:.4g}" if isinstance(value, float) else value)
        return table.replace("nan", "")

    def figure(self) -> str:
        """The levels as an SVG picture."""
        return dots(self.levels, self.model.level, f"{self.metric} on held-out rows", self.metric == "rmse")

    def _repr_html_(self) -> str:
        told = "".join(f"<li>{html.escape(text)}.</li>" for text in self.warnings)
        answers = "".join(f"<p>{html.escape(text)}</p>" for text in self.answers)
        heading = "Before you believe this" if told else ""
        return (
            f"<p><b>{html.escape(self.use)}</b></p>{self.figure()}{answers}<p>{heading}</p><ul>{told}</ul>"
            f"{self._shown().to_html()}"
        )


def advise(
    frame: pd.DataFrame,
    main: str,
    auxiliaries: Sequence[str] = (),
    *,
    leave_out: Sequence[str] = (),
    kinds: Mapping[str, str] | None = None,
    dates: Sequence[str] = (),
    groups: str | None = None,
    time: str | None = None,
    balanced: bool = False,
    effort: str = "default",
    jobs: int = 2,
) -> Advice:
    """What to use to predict a column of a table: a constant, a linear model, trees or a network, with auxiliaries?

    A fifth of the rows is held out in turn, five times, and twice over in tables of up to 10,000 rows. When a network
    stops is chosen on rows that it neither trains nor is tested on; learning rates, penalties and the size of trees on
    such rows of three repetitions, which others test on. Levels are compared in pairs, with tests that allow for the
    rows that repetitions share and for the number of pairs; among those that are not surely worse than the best the
    simplest is recommended.

    Args:
        frame: the table. Of targets, two values are binary, text is multiclass, whole numbers from -1, 0 or 1 to at
            most ten in a row are multiclass, other numbers are a regression. Inputs are all other columns but those
            that hold dates, number the rows, are constant, or have more than 200 different texts or another one in
            every second row. A missing input becomes the mean and a flag; a missing label has no weight.
        main: the column that matters.
        auxiliaries: columns that are known in this table but will not be when you predict. A column that will be
            known is better left among the inputs.
        leave_out: columns to ignore.
        kinds: target to ``"regression"``, ``"binary"`` or ``"multiclass"``, where the above is not meant.
        dates: inputs that hold dates, whose year, month and weekday are to be used.
        groups: a column that says which rows belong together: they are never both trained and tested on.
        time: a column to split by: trained on earlier rows than are tested on.
        balanced: give each class of the main target the same weight, and decide a multiclass one by the balanced
            accuracy. Predicted probabilities are then those of equally common classes.
        effort: ``"default"`` takes at most about three minutes on two cores for 50,000 rows; ``"thorough"`` trains up
            to four times as long where that is needed, and tries more weightings; ``"quick"`` shows how the report
            looks, and its networks are not to be believed.
        jobs: processes.

    Raises:
        Refused: a table or an argument that cannot be answered for, in one sentence.
    """
    if effort not in EFFORTS:
        raise Refused(f"effort is {effort!r}, expected one of {', '.join(EFFORTS)}")
    if not isinstance(jobs, numbers.Integral) or jobs < 1:
        raise Refused(f"jobs is {jobs!r}, expected a whole number from 1")
    roles = Roles(main, auxiliaries, leave_out, dates, kinds, groups, time, balanced)
    prepared = prepare(frame, roles, inner=1 if effort == "quick" else None)
    task, *others = prepared.table.tasks
    rows = int((prepared.strata >= 0).sum())
    trained = Effort.of(effort, rows)
    found = try_levels(prepared, trained, jobs)
    target = prepared.table.targets[task.name].numpy()
    metric, score = scorer(task, balanced)
    verdicts = _Verdicts(found.scores(target, score), prepared.overlap, metric, task.name, rows)
    level = verdicts.recommended()
    order, check = suspects(prepared, found, trained, frame, jobs)
    names = [other.name for other in others]
    helps, which = verdicts.helps(), verdicts.which(names)
    told = list(prepared.warnings)
    if not names:
        told.append(
            "no auxiliary is named, so nothing is said about any: name columns that you know now and will not know "
            "when you predict"
        )
    elif len(which) == 0:
        told.append(f"{len(names)} auxiliaries: each is tried by itself only with effort='thorough'")
    if effort == "quick":
        told.append("effort is 'quick': the networks are hardly trained")
    answers = [*verdicts.on_auxiliaries(helps, which), _on_suspects(order, check)]
    return Advice(
        verdicts.use(level, found.unfinished, names),
        verdicts.levels(level),
        helps,
        which,
        order,
        check,
        prepared.columns,
        told,
        fit_on_all(prepared, level, found, trained),
        metric,
        answers,
    )


class _Verdicts:
    """Tables and sentences from the scores: a row for each repetition, a column for each level, simplest first."""

    def __init__(self, scores: pd.DataFrame, overlap: float, metric: str, main: str, rows: int) -> None:
        self.scores, self.metric, self.rows = scores, metric, rows
        self.overlap, self.lower = overlap, metric == "rmse"
        self.unit = f"{metric}, in units of {main}" if metric == "rmse" else metric
        self.open = [name for name in scores if name != WITH]
        self.best = self.ahead(self.open)

    def ahead(self, levels: Sequence[str]) -> str:
        """The one of these levels with the best mean."""
        means = self.scores[list(levels)].mean()
        return means.idxmin() if self.lower else means.idxmax()

    def _promise(self, level: str) -> tuple[float, float, float]:
        return promise(self.scores[level], self.lower)

    def against(self, reference: str, levels: Sequence[str]) -> pd.DataFrame:
        """These levels against another one."""
        return judged(
            self.scores, {name: (reference, name) for name in levels}, overlap=self.overlap, lower_is_better=self.lower
        )

    def recommended(self) -> str:
        """The simplest level that is not surely worse than the best; only those that are simpler are tested."""
        behind = self.against(self.best, self.open[: self.open.index(self.best)])
        return next(iter(behind.index[behind["verdict"] != "worse"]), self.best)

    def levels(self, level: str) -> pd.DataFrame:
        """See :attr:`Advice.levels`."""
        table = pd.DataFrame({name: self._promise(name) for name in self.scores}, ["mean", "low", "high"]).T
        names = list(self.scores)
        place = names.index(level)
        behind = pd.concat([self.against(level, part) for part in (names[:place], names[place + 1 :]) if part])
        behind = behind.rename(columns={"low": "difference low", "high": "difference high"})
        table = table.join(behind).sort_values("mean", ascending=self.metric == "rmse", kind="stable")
        table.loc[level, "verdict"] = "recommended"
        return table.rename_axis("level")

    def helps(self) -> pd.DataFrame:
        """See :attr:`Advice.helps`."""
        taught = [name for name in self.open if name.startswith("network") and name != SINGLE]
        return self.against(SINGLE, [n for n in taught if not n.startswith(network_with(""))]).rename_axis("network")

    def which(self, names: Sequence[str]) -> pd.DataFrame:
        """See :attr:`Advice.which`."""
        pairs = {name: (SINGLE, EQUAL if len(names) == 1 else network_with(name)) for name in names}
        pairs = {name: pair for name, pair in pairs.items() if pair[1] in self.scores}
        table = judged(self.scores, pairs, overlap=self.overlap, lower_is_better=self.lower).rename_axis("auxiliary")
        table["verdict"] = table["verdict"].replace({"better": "helps", "worse": "hurts"})
        return table

    def use(self, level: str, unfinished: Sequence[str], names: Sequence[str]) -> str:
        """The verdict."""
        mean, low, high = self._promise(level)
        text = f"Use {_spoken(level)}: {self.unit} {mean:.3g}, between {low:.3g} and {high:.3g} on new rows."
        if level == CONSTANT:
            text = (
                "Nothing is surely better than the same answer for every row "
                f"({self.unit} {mean:.3g}): this table does not tell how to predict it."
            )
        rivals = [name for name in self.open if name != level]
        behind = self.against(level, rivals)
        if level != self.best:
            row = behind.loc[self.best]
            text += f" {_spoken(self.best)[0].upper()}{_spoken(self.best)[1:]} may be better ({_interval(row)}): "
            text += self._needed(row, len(rivals))
        elif level != CONSTANT:
            second = self.ahead(rivals)
            text += f" Next best: {_spoken(second)} ({_interval(behind.loc[second])})."
        if names and level in (CONSTANT, LINEAR, TREES):
            text += self._still_good_for(names)
        if names and WITH in self.scores:
            row = self.against(TREES, [WITH]).iloc[0]
            if row["verdict"] == "better":
                text += (
                    f" Will you know {', '.join(names)} when you predict? Then do not name them as auxiliaries: as "
                    f"inputs they bring boosted trees to {self.scores[WITH].mean():.3g} ({_interval(row)})."
                )
        if unfinished:
            text += (
                f" Still improving when training ended, so that more may be possible: {', '.join(unfinished)}; "
                "effort='thorough' trains longer."
            )
        return text

    def _needed(self, row: pd.Series, pairs: int) -> str:
        """How many rows would tell."""
        needed = rows_needed(row, pairs, len(self.scores), self.rows)
        if math.isinf(needed):
            return "too little to matter."
        number = float(f"{needed:.2g}")
        return f"to be sure of such a difference takes about {number:,.0f} rows, you have {self.rows:,}."

    def _still_good_for(self, names: Sequence[str]) -> str:
        helps = self.helps()
        taught = helps[helps["verdict"] == "better"]
        what = "the auxiliaries" if len(names) > 1 else names[0]
        if taught.empty:
            return f" It leaves {what} out; in a network they do not surely help either."
        best = self.ahead(taught.index)
        return f" It leaves {what} out; they help only if you need a network ({_interval(taught.loc[best])})."

    def on_auxiliaries(self, helps: pd.DataFrame, which: pd.DataFrame) -> list[str]:
        """Sentences on both tables."""
        if helps.empty:
            return []
        good = helps[helps["verdict"] == "better"]
        if len(good):
            best = self.ahead(good.index)
            first = f"Do the auxiliaries help a network? Yes: {best} {_interval(helps.loc[best])} ({self.unit})."
        else:
            best = self.ahead(helps.index)
            row = helps.loc[best]
            first = (
                f"Do the auxiliaries help a network? Not surely: the best, {best}, {_interval(row)} ({self.unit}); "
                f"{self._needed(row, len(helps))}"
            )
        found = [first]
        for verdict in ("helps", "hurts"):
            rows = which[which["verdict"] == verdict]
            if len(rows):
                listed = "; ".join(f"{name}, {_interval(row)}" for name, row in rows.iterrows())
                found.append(f"What {verdict} by itself: {listed}.")
        rest = which.index[which["verdict"] == "no difference"]
        if len(rest):
            found.append(f"No sure difference by itself: {', '.join(rest)}.")
        return found


def _spoken(level: str) -> str:
    if level == CONSTANT:
        return "the same answer for every row"
    return level if level == TREES else f"a {level}"


def _interval(row: pd.Series) -> str:
    return f"{row['difference']:+.3g} [{row['low']:+.3g}, {row['high']:+.3g}], p = {row['p']:.2g}"


def _on_suspects(order: pd.DataFrame, check: pd.DataFrame) -> str:
    best = check.iloc[0]
    first = ", ".join(map(str, order.index[:5]))
    text = f"Labels to look at first: rows {first} (from 0), by {best.name}. "
    sure = (
        f"With {SHARE:.0%} of the labels made wrong on purpose, {best['precision']:.0%} of the first "
        f"{best['first']:.0f} by this order were such labels (ROC AUC {best['roc_auc']:.2f})"
    )
    if not np.isfinite(best["roc_auc"]) or best["precision"] < 0.5:
        return f"No ranking finds wrong labels here. {sure}, so the order below says little."
    return f"{text}{sure}; labels that are wrong anyway count as misses there."
