"""What a front page says, written from the tables: between marks in README.md, see :mod:`companion.claims`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import pandas as pd

from companion import methods
from companion.claims._judge import NOT_AVAILABLE, TEST_METRICS, VERDICTS
from companion.claims._papers import PAPERS_BASELINES
from companion.claims._table import MARKS, placed, short, untested


def filled(text: str, parts: dict[str, str]) -> str:
    """The text with each part between the lines ``<!-- name -->`` and ``<!-- end of name -->``.

    Raises:
        ValueError: such a line is not there once.
    """
    for name, part in parts.items():
        begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        if text.count(begin) != 1 or text.count(end) != 1:
            raise ValueError(f"expected the lines {begin} and {end} once each")
        text = re.sub(f"{begin}.*{end}", lambda _, new=f"{begin}\n{part}\n{end}": new, text, flags=re.DOTALL)
    return text


def generated(
    table: pd.DataFrame, numbers: pd.DataFrame, clean: pd.DataFrame, collapsed: pd.DataFrame
) -> dict[str, str]:
    """Everything on the front page that has a number or names a method.

    Args:
        table: the claims table.
        numbers: the per-seed numbers of label_noise_mnist.
        clean: those of clean_rows.
        collapsed: what alphavil found on seeds that collapse.
    """
    found = [f"{line}{collapses(collapsed)}" if line.startswith("**αVIL") else line for line in findings(table)]
    found = [*found, untested(table)]
    found.insert(1, by_clean_rows(clean))
    return {
        "hero": hero(numbers),
        "findings": "\n".join(f"- {sentence}" for sentence in found if sentence),
        "claims": f"{picture(table)}\n\n{slim(short(table))}\n\n{key()}",
        "methods": slim(methods.listing()),
    }


def hero(numbers: pd.DataFrame) -> str:
    """What the picture on top shows, its alternative text, and the sentence below."""
    rows = numbers[(numbers["condition"] == "60% label noise") & (numbers["metric"] == "loss")]
    mean = rows.groupby("method")["value"].mean()
    best = mean[list(PAPERS_BASELINES)].min()
    order = mean[["SLGrad", "meta rows only", "clean main labels", "linear model, clean rows", "constant"]].round(3)
    precision = numbers[(numbers["condition"] == "60% label noise") & (numbers["metric"] == "average_precision")]
    ranked = precision.groupby("method")["value"].mean()
    weight = numbers[(numbers["condition"] == "60% label noise") & (numbers["metric"] == "noisy_weight")]
    share = weight.groupby("method")["value"].mean()
    says = (
        f"Left, the share of the main task's weight that goes to wrong labels: {share['Uniform']:.0%} with uniform "
        f"weights, {share['SLGrad']:.0%} with SLGrad. Right, test losses beside a constant and linear models"
    )
    return (
        f"![{says}](figures/label_noise_mnist/label_noise_weights.svg)\n\n"
        f"MNIST as ten one-vs-rest tasks, 60 % of the main task's 1,000 training labels flipped, "
        f"{rows['seed'].nunique()} seeds. SLGrad's test loss is {order['SLGrad']:.3f}, the best of its paper's "
        f"baselines has {best:.3f}; plain training on three quarters of the 200 clean rows that guide SLGrad, stopped "
        f"by the rest, has {order['meta rows only']:.3f}, with the auxiliaries' labels of the other rows as well "
        f"{order['clean main labels']:.3f}; a logistic regression on the clean rows has "
        f"{order['linear model, clean rows']:.3f}, a constant {order['constant']:.3f}. Average precision, which "
        f"asks only for the order of the test rows: SLGrad {ranked['SLGrad']:.3f}, with the auxiliaries' labels "
        f"{ranked['clean main labels']:.3f}, the logistic regression {ranked['linear model, clean rows']:.3f}."
    )


def findings(table: pd.DataFrame) -> list[str]:
    """A line per tested paper: in how many settings where something was learned its claims hold, and numbers of one."""
    found = [
        _finding(table, "SLGrad", "a weight per sample", [
            ("lower test loss than its paper's baselines", "S1", "against the paper's baselines"),
            ("than plain training on the clean rows that guide it", "S1", "against plain training on the clean rows"),
            ("than that with the auxiliary labels of all rows added", "S1",
             "against plain training without the main labels that may be wrong"),
            ("than a linear model on those rows", "S1", "against a linear model on the clean rows"),
            ("no worse than uniform weights without wrong labels", "S3", None),
        ]),
        _finding(table, "HydaLearn", "a weight per mini-batch", [
            ("lower test loss than every static weight", "H1", None),
            ("turns from an auxiliary that loses its relevance, measured on clean rows", "H2",
             "gain measured on meta rows"),
            ("measured on the training batch", "H2", "gain measured on the training batch"),
        ]),
        _finding(table, "αVIL", "a weight per epoch", [
            ("more accurate than single-task and uniform training of as many steps", "V1", None),
            ("no worse than DIW", "V2", ("all of the data for each branch", "branches share the data")),
            ("than ForkMerge", "V2", "and than ForkMerge"),
        ]),
        _finding(table, "Uniform weights, DWA, uncertainty", "compared", [
            ("no gain over single-task training", "G1", None),
            ("none best everywhere", "G2", None),
            ("gains shrink as data grow", "G3", None),
        ]),
        _finding(table, "Architectures", "what the tasks share", [
            ("a low-level auxiliary is better at a low layer", "A1", None),
            ("routes are ahead of hard sharing with twenty tasks", "A2", None),
            ("two backbones are ahead of one trunk as large", "A3", None),
            ("TAPS is near separate models, with half of their parameters", "A4", None),
        ]),
    ]  # fmt: skip
    return [finding for finding in found if finding]


def by_clean_rows(numbers: pd.DataFrame) -> str:
    """What SLGrad, its clean rows used directly and a constant come to, with as many clean rows as one can learn of."""
    parts = numbers["condition"].str.extract(r"(\d+% label noise), (\d+) clean rows")
    worst = max(parts[0].unique(), key=lambda share: parts[1][parts[0] == share].nunique())
    rows = numbers[(parts[0] == worst) & (numbers["metric"] == "loss")].assign(rows=parts[1].astype(int))
    mean = rows.groupby(["method", "rows"])["value"].mean().unstack()
    learned = mean.loc[["SLGrad", "meta rows only", "linear model, clean rows"]].min() < mean.loc["constant"]
    few = f"; with {_listed(mean.columns[~learned])} none of these is below a constant" if not learned.all() else ""
    mean = mean.loc[:, learned]

    def series(method: str) -> str:
        return _listed(f"{value:.3f}" for value in mean.loc[method])

    return (
        f"**How many clean rows** ([clean_rows](notebooks/clean_rows.ipynb), MNIST, {worst}, {rows['seed'].nunique()} "
        f"seeds): with {_listed(mean.columns)} of them SLGrad's test loss is {series('SLGrad')}, of plain training on "
        f"them alone {series('meta rows only')}, of a logistic regression on them "
        f"{series('linear model, clean rows')}, of a constant {series('constant')}{few}."
    )


def collapses(table: pd.DataFrame) -> str:
    """A sentence on the seeds of αVIL that end near the constant, empty where there are none."""
    rows = table[table["method"].str.startswith("AlphaVIL") & (table["collapsed seeds"] > 0)]
    said = [
        f"{n} of {of} seeds with {target.replace(': ', ' ')} ({method.replace('Alpha', 'α')})"
        for target, method, n, of in rows[["target", "method", "collapsed seeds", "of"]].itertuples(index=False)
    ]
    return f" It collapses to a constant in {_listed(said)}." if said else ""


def _listed(items: Iterable[object]) -> str:
    *most, last = map(str, items)
    return f"{', '.join(most)} and {last}" if most else last


def _finding(
    table: pd.DataFrame, name: str, what: str, asked: Sequence[tuple[str, str, str | tuple[str, ...] | None]]
) -> str:
    tested = placed(table[~table["verdict"].isin(VERDICTS[-2:])])
    said = []
    for words, claim, setting in asked:
        settings = (setting,) if isinstance(setting, str) else setting
        rows = tested[(tested["claim"] == claim) & (tested["what"].isin(settings) if settings else True)]
        if len(rows):
            said.append(f"{words} **{_count(rows['verdict'], plural=not said)}**{'' if said else _example(rows)}")
    return f"**{name}**, {what}: {', '.join(said)}." if said else ""


def _count(verdicts: pd.Series, plural: bool) -> str:
    """In how many settings a claim was reproduced, in how many partly, and how many leave it open."""
    yes, partly, undecided = ((verdicts == VERDICTS[n]).sum() for n in (0, 1, 2))
    extra = (f", partly in {partly} more" if partly else "") + (f", undecided in {undecided}" if undecided else "")
    return f"in {yes} of {len(verdicts)}{' settings' if plural else ''}{extra}"


def _example(rows: pd.DataFrame) -> str:
    """The numbers of the first study's last setting with a clear verdict, with its floor, where of test rows."""
    own = rows[rows["study"] == rows["study"].iloc[0]]
    clear, settled = own[own["verdict"].isin(("reproduced", "opposite"))], own[own["verdict"] != "undecided"]
    row = next(part for part in (clear, settled, own) if len(part)).iloc[-1]
    metric = row["comparison"].split(", ")
    if not TEST_METRICS & set(metric):
        return ""
    where, seeds = " ".join(filter(None, [row["data"], row["place"]])), row["seeds"].split(" of ")[1]
    linear = "" if row["linear_model"] == NOT_AVAILABLE else f", a linear model {row['linear_model']}"
    against = f"{row['ours']} against {row['theirs']}, a constant {row['constant']}{linear}"
    theirs, constant = (pd.to_numeric(rows[side], errors="coerce") for side in ("theirs", "constant"))
    worse = (theirs > constant).sum() if "loss" in metric else 0
    weak = f"; in {worse} of {len(rows)} the best rival is itself worse than a constant" if worse else ""
    return f" ({where}, {seeds} seeds, at most {row['steps']} steps: {against}{weak})"


def picture(table: pd.DataFrame) -> str:
    """The verdict matrix, with its alternative text."""
    counts = table["verdict"].value_counts()
    words = ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS if verdict in counts)
    says = f"A mark for each of {len(table)} tests of {table['claim'].nunique()} claims: {words}"
    return f"[![{says}](figures/claims/verdicts.svg)](notebooks/claims.ipynb)"


def key() -> str:
    """What the marks mean."""
    return ", ".join(f"{mark} {verdict.replace(' here', '')}" for verdict, mark in MARKS.items())


def slim(table: pd.DataFrame) -> str:
    """A Markdown table without padding."""
    header = [table.index.name, *table.columns]
    rows = [[index, *row] for index, row in zip(table.index, table.to_numpy(), strict=True)]
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
