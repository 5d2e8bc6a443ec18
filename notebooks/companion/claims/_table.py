"""The claims in words: a row per claim and setting, and the texts made of these; see :mod:`companion.claims`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from companion.claims._judge import EXCLUDED, MATTERS, NOT_AVAILABLE, SHARED, TEST_METRICS, VERDICTS, Claim, test
from mtlkit.tasks import lower_is_better

AS_IT_SAYS = "as it says"
NONE = "not tested"
"""What a cell says where there is nothing to say."""
NO_NOTEBOOK = "figures only"
"""What it says where no stored notebook shows the study."""


def table(claims: Sequence[Claim], numbers: Mapping[str, pd.DataFrame | None]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Judge all claims.

    Args:
        numbers: study to its per-seed numbers at full scale, None where it has not been run.

    Returns:
        the claims, a row each, in words (:func:`in_words`); and all comparisons behind them, in numbers, with the
        columns claim, setting, study and those of :func:`companion.claims.outcomes`.
    """
    judged = [(claim, *test(claim, numbers.get(claim.study))) for claim in claims]
    behind = [
        found.assign(claim=claim.id, setting=claim.setting, study=claim.study)[[*KEY, *found.columns]]
        for claim, _, _, found in judged
        if len(found)
    ]
    comparisons = pd.concat(behind, ignore_index=True) if behind else pd.DataFrame()
    return pd.DataFrame([in_words(*found) for found in judged]), comparisons


KEY = ["claim", "setting", "study"]


def in_words(claim: Claim, verdict: str, note: str, found: pd.DataFrame) -> dict[str, str]:
    """What was found of a claim as the cells of its row, none of them empty: all numbers are formatted here.

    They are those of the comparison that speaks least for the claim among those that count, and where the verdict is
    against it among those that deny it; p is corrected after Holm.
    """
    shown = {name: NONE for name in TESTED}
    if len(found):
        deciding = found[~found["outcome"].isin(EXCLUDED)]
        against = deciding[deciding["denied"] | deciding["reverse"]] if verdict in SAYING_NO else deciding
        decisive = next(part for part in (against, deciding, found) if len(part))
        row = decisive.sort_values("support", kind="stable").iloc[0]
        tuned = deciding[deciding["rate"] != NOT_AVAILABLE]
        small, p = row["p_holm"] < 0.001, f"{row['p_holm']:.3f}"
        shown |= {
            "holds": f"{deciding['holds'].sum()} of {len(deciding)}",
            "learned": f"{(~found['outcome'].isin((EXCLUDED[0], SHARED))).sum()} of {len(found)}",
            "trained": f"at most {found['late'].max():.0%} late",
            "linear": row["linear"],
            "rate": f"{(tuned['rate'] == 'decides').sum()} of {len(tuned)}" if len(tuned) else NONE,
            "rows": "shared rows, corrected" if found["overlap"].max() > 0 else "own rows",
            "comparison": f"{row['method']} against {row['against']}, {row['metric']}, {row['condition']}",
            "ours": _number(row["ours"]),
            "theirs": _number(row["theirs"]),
            "difference": _number(row["difference"], "+"),
            "interval": f"[{_number(row['low'], '+')}, {_number(row['high'], '+')}]",
            "p": NONE if np.isnan(row["p_holm"]) else "<0.001" if small else p,
            "constant": _number(row["constant"]),
            "linear_model": NOT_AVAILABLE if np.isnan(row["linear_model"]) else _number(row["linear_model"]),
            "seeds": f"{row['seeds'] - row['missing']} of {row['seeds']}",
            "steps": "not recorded" if np.isnan(row["steps"]) else f"{row['steps']:,.0f}",
        }
    what = claim.what or AS_IT_SAYS
    notebook = NO_NOTEBOOK if claim.notebook is None else claim.notebook or claim.study
    says = {"claim": claim.id, "source": claim.source, "sentence": claim.sentence, "where": claim.where, "what": what}
    where = {"papers_number": claim.paper, "study": claim.study, "notebook": notebook, "figure": claim.figure}
    return says | {"setting": claim.setting, "verdict": verdict} | shown | where | {"note": note or "none"}


SAYING_NO = ("not reproduced", "opposite")
"""Verdicts against a claim."""
TESTED = (
    *("holds", "learned", "trained", "linear", "rate", "rows", "comparison"),
    *("ours", "theirs", "difference", "interval", "p", "constant", "linear_model", "seeds", "steps"),
)
"""Columns that say nothing of a claim that is not tested."""


def _number(value: float, sign: str = "") -> str:
    return f"{value:{sign}.3f}" if abs(value) < 1000 else f"{value:{sign}.1e}"


def readable(table: pd.DataFrame, root: str = "../..") -> pd.DataFrame:
    """The claims table to read, a row each, with links.

    Args:
        root: of the project, as seen from where the text will be.
    """
    rows = []
    for row in table.itertuples(index=False):
        see = [] if row.notebook == NO_NOTEBOOK else [f"[{row.notebook}]({root}/notebooks/{row.notebook}.ipynb)"]
        if row.holds != NONE:
            see.append(f"[figure]({root}/figures/{row.study}/{row.figure}.svg)")
        decisive = f"{row.ours} against {row.theirs}, {row.difference} {row.interval}, p {row.p}: {row.comparison}"
        rows.append(
            {
                "claim": row.claim,
                "what the paper says": f"{row.sentence} ({row.source})",
                "tested as": f"{row.study}: {row.setting}",
                "verdict": f"**{row.verdict}**",
                "comparisons that hold": row.holds,
                "learned": row.learned,
                "trained to the end": row.trained,
                "a linear model is": row.linear,
                "unclear for its rate": row.rate,
                "rows": row.rows,
                "the one that speaks least for it": row.note if row.holds == NONE else decisive,
                "the paper's number": row.papers_number,
                "see": ", ".join(see) or NONE,
            }
        )
    return pd.DataFrame(rows).set_index("claim")


TITLES = {
    "label_noise_mnist": "MNIST",
    "label_noise_digits": "scans",
    "label_noise_cifar10": "CIFAR-10",
    "synthetic": "our toy",
    "toy_regression": "paper's toy",
    "published_baselines": "MNIST",
    "clean_rows": "MNIST",
    "alphavil": "Multi-MNIST",
    "loss_weighting_comparison": "Multi-MNIST",
    "language_tasks": "language",
}
"""Study to what a reader calls its data; a study that is not here has several, named in ``where``."""
PANELS = {"S": "SLGrad", "H": "HydaLearn", "V": "αVIL", "G": "Loss weighting strategies", "A": "Architectures"}
"""First letter of a claim to what it is about."""
IN_SHORT = {
    "S1": "lowest loss under label noise",
    "S2": "next to no weight on wrong labels",
    "S3": "no worse than uniform without noise",
    "S4": "use of auxiliaries drifts, no harm",
    "H1": "lower loss than five static weights",
    "H2": "less weight when relevance is lost",
    "H3": "weights vary within an epoch",
    "V1": "beats single task and uniform",
    "V2": "no worse than DIW",
    "G1": "no gain over single-task training",
    "G2": "no strategy is best everywhere",
    "G3": "gains shrink as data grow",
    "A1": "low-level tasks: better at a low layer",
    "A2": "routing ahead with many tasks",
    "A3": "two backbones ahead of a wide trunk",
    "A4": "TAPS near separate models, smaller",
}
"""Claim to a few words."""
BRIEFLY = {
    "against plain training that knows the share of wrong labels": "against a loss that knows the flip rate",
    "against plain training on the clean rows": "against training on the clean rows",
    "against plain training without the main labels that may be wrong": "against clean main labels alone",
    "against a linear model on the clean rows": "against a linear model on clean rows",
    "against uniform weights": "",
    "against five static weights": "",
    "baselines as the authors' code has them": "baselines as in the authors' code",
    "baselines and SLGrad as the authors' code has them": "all as in the authors' code",
    "all of the data for each branch": "each branch has all of the data",
    "against rivals that it is not compared with": "against later rivals",
    "against later rivals, with 25, 50 and 500 clean rows": "later rivals, 25 to 500 clean rows",
    "against the weightings of other papers": "against other papers' weightings",
    AS_IT_SAYS: "",
}
"""What is tested, where its words are too many for a picture."""


def placed(table: pd.DataFrame) -> pd.DataFrame:
    """The claims table with ``data`` and ``place`` (level of noise, rows, pair of tasks) of every row, in few words."""
    where = table["where"].str.replace(" label noise", "").str.replace(" pairs?$", "", regex=True)
    within = where.where(~where.str.contains("each digit in turn"), "")
    parts = where.str.partition(", ")
    titles = table["study"].map(TITLES)
    return table.assign(
        data=titles.fillna(parts[0]), place=within.where(titles.notna(), parts[2].str.replace(" rows", "")).fillna("")
    )


def matrices(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The verdicts to draw: title to a frame with a row per claim and test, a column per data and place.

    A cell is empty where a test is not asked of that data.
    """
    found, rows = {}, placed(table)
    rows = rows.assign(text=rows["claim"] + " " + rows["claim"].map(IN_SHORT), test=rows["what"].replace(BRIEFLY))
    order = {name: number for number, name in enumerate(dict.fromkeys(TITLES.values()))}
    for letter, title in PANELS.items():
        own = rows[rows["claim"].str[0] == letter]
        wide = own.pivot(index=["text", "test"], columns=["data", "place"], values="verdict")
        columns = list(dict.fromkeys(zip(own["data"], own["place"], strict=True)))
        if letter == "S":
            columns.sort(key=lambda column: (order[column[0]], column[1]))
        tests = list(dict.fromkeys(zip(own["text"], own["test"], strict=True)))
        found[title] = wide.loc[tests, columns].fillna("")
    return found


def least_support(table: pd.DataFrame, comparisons: pd.DataFrame) -> pd.DataFrame:
    """How far ahead each tested claim's method is in the comparison that speaks least for it, for a figure.

    Only comparisons of test losses and metrics that decide. Gains are in hundredths of what the best contender gains
    on the constant, of which the margin is a twentieth.

    Returns:
        ``group`` (the claim), ``label``, ``gain``, ``low``, ``high`` and ``outcome``.
    """
    found = []
    for row in placed(table).itertuples():
        same = (comparisons["claim"] == row.claim) & (comparisons["setting"] == row.setting)
        own = comparisons[same & (comparisons["study"] == row.study) & ~comparisons["outcome"].isin(EXCLUDED)]
        own = own[own["metric"].isin(TEST_METRICS) & (own["wants"] != "different")]
        if own.empty:
            continue
        least = own.sort_values("support", kind="stable").iloc[0]
        sign = 100 * MATTERS * (-1 if lower_is_better(least["metric"]) else 1) / least["margin"]
        ends = sorted((sign * least["low"], sign * least["high"]))
        where = ", ".join(filter(None, [row.data, row.place]))
        group = f"{row.claim} {PANELS[row.claim[0]]}: {IN_SHORT[row.claim]}"
        sides = f"{where}: against {least['against']}", f"{where}: {least['method']} against {least['against']}"
        found.append((group, *sides, sign * least["difference"], *ends, least["outcome"]))
    rows = pd.DataFrame(found, columns=["group", "label", "in full", "gain", "low", "high", "outcome"])
    alike = rows.duplicated(["group", "label"], keep=False)
    return rows.assign(label=rows["label"].where(~alike, rows["in full"])).drop(columns="in full")


MARKS = dict(zip(VERDICTS[:-1], "●◐?○✕□", strict=True))
"""Verdict to how a text marks it."""


def short(table: pd.DataFrame) -> pd.DataFrame:
    """For a front page: a row per claim that is tested, how many tests on which data have which verdict.

    Verdicts are :data:`MARKS` that lead to the notebook behind them, or to the figure where no stored one shows it.
    """
    rows = placed(table[table["verdict"] != VERDICTS[-1]])
    cells: dict[str, dict[str, list[str]]] = {}
    for (claim, data, study), part in rows.groupby(["claim", "data", "study"], sort=False):
        notebook, figure = part[["notebook", "figure"]].iloc[0]
        see = f"figures/{study}/{figure}.svg" if notebook == NO_NOTEBOOK else f"notebooks/{notebook}.ipynb"
        counts = part["verdict"].value_counts()
        marks = " ".join(f"{counts[verdict]}{mark}" for verdict, mark in MARKS.items() if verdict in counts)
        row = cells.setdefault(f"{claim} {PANELS[claim[0]].split()[-1]}: {IN_SHORT[claim]}", {})
        row.setdefault(data, []).append(f"[{marks}]({see})")
    shown = {claim: "; ".join(f"{d} {', '.join(texts)}" for d, texts in row.items()) for claim, row in cells.items()}
    return pd.Series(shown, dtype=str).rename_axis("claim").to_frame("verdicts")


def untested(table: pd.DataFrame) -> str:
    """How many tests are still to come, and the claims that have none yet, as a sentence; empty if all are done."""
    done = table["verdict"] != VERDICTS[-1]
    run = (~done & (table["holds"] != NONE)).sum()
    left = table.loc[~table["claim"].isin(table.loc[done, "claim"]), "claim"].unique()
    named = {title: ", ".join(claim for claim in left if claim[0] == letter) for letter, title in PANELS.items()}
    whole = "; ".join(f"{title}: {claims}" for title, claims in named.items() if claims)
    among = f", among them all of {whole}" if whole else ""
    cut = f" ({run} of them run, but cut off or tuned to an edge)" if run else ""
    return "" if done.all() else f"Without a verdict so far: {(~done).sum()} of {len(table)} tests{cut}{among}."


def sentences(table: pd.DataFrame) -> str:
    """The table in words: a line of Markdown per claim and setting that has been tested."""
    lines = []
    for row in table[table["holds"] != NONE].itertuples(index=False):
        note = "" if row.note == "none" else f" ({row.note})"
        linear = f"; a linear model is {row.linear}" if row.linear in ("as good", "ahead") else ""
        lines.append(
            f"- **{row.claim}**, {row.setting} ({row.study}): **{row.verdict}**{note}. {row.holds} comparisons "
            f"hold; the one that speaks least for it is {row.comparison}: {row.ours} against {row.theirs}, a "
            f"difference of {row.difference} {row.interval}{linear}."
        )
    return "\n".join(lines) or "No claim has been tested yet."
