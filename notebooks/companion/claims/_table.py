"""The claims in words: a row per claim and setting, and the texts made of these; see :mod:`companion.claims`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from companion.claims._judge import UNDECIDED, VERDICTS, Claim, test

AS_IT_SAYS = "as it says"
NONE = "not tested"
"""What a cell says where there is nothing to say."""


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

    They are those of the comparison that speaks least for the claim among those that count; p is corrected after Holm.
    """
    shown = {name: NONE for name in TESTED}
    if len(found):
        deciding = found[~found["outcome"].isin(UNDECIDED)]
        row = (found if deciding.empty else deciding).sort_values("support", kind="stable").iloc[0]
        small, p = row["p_holm"] < 0.001, f"{row['p_holm']:.3f}"
        shown |= {
            "holds": f"{deciding['holds'].sum()} of {len(deciding)}",
            "learned": f"{(found['outcome'] != UNDECIDED[0]).sum()} of {len(found)}",
            "trained": f"at most {found['late'].max():.0%} late",
            "linear": row["linear"],
            "rows": "shared rows, corrected" if found["overlap"].max() > 0 else "own rows",
            "comparison": f"{row['method']} against {row['against']}, {row['metric']}, {row['condition']}",
            "ours": _number(row["ours"]),
            "theirs": _number(row["theirs"]),
            "difference": _number(row["difference"], "+"),
            "interval": f"[{_number(row['low'], '+')}, {_number(row['high'], '+')}]",
            "p": NONE if np.isnan(row["p_holm"]) else "<0.001" if small else p,
            "seeds": f"{row['seeds'] - row['missing']} of {row['seeds']}",
        }
    what, notebook = claim.what or AS_IT_SAYS, claim.notebook or claim.study
    says = {"claim": claim.id, "source": claim.source, "sentence": claim.sentence, "where": claim.where, "what": what}
    where = {"papers_number": claim.paper, "study": claim.study, "notebook": notebook, "figure": claim.figure}
    return says | {"setting": claim.setting, "verdict": verdict} | shown | where | {"note": note or "none"}


TESTED = (
    *("holds", "learned", "trained", "linear", "rows", "comparison"),
    *("ours", "theirs", "difference", "interval", "p", "seeds"),
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
        see = f"[{row.notebook}]({root}/notebooks/{row.notebook}.ipynb)"
        if row.holds != NONE:
            see += f", [figure]({root}/figures/{row.study}/{row.figure}.svg)"
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
                "rows": row.rows,
                "the one that speaks least for it": row.note if row.holds == NONE else decisive,
                "the paper's number": row.papers_number,
                "see": see,
            }
        )
    return pd.DataFrame(rows).set_index("claim")


TITLES = {
    "label_noise_mnist": "MNIST",
    "label_noise_digits": "scans",
    "label_noise_cifar10": "CIFAR",
    "synthetic": "our toy",
    "toy_regression": "paper's toy",
    "published_baselines": "MNIST",
    "alphavil": "Multi-MNIST",
    "loss_weighting_comparison": "",
    "hydalearn_drift": "",
    "language_tasks": "",
    "architectures": "",
}
"""Study to what a reader calls its data."""
PANELS = {"S": "SLGrad", "H": "HydaLearn", "V": "αVIL", "G": "Loss weighting strategies", "A": "Architectures"}
"""First letter of a claim to what it is about."""
IN_SHORT = {
    "S1": "lowest loss",
    "S2": "wrong labels get next to no weight",
    "S3": "no harm without noise",
    "S4": "use of the auxiliaries drifts, to no harm",
    "H1": "lower loss",
    "H2": "less weight after relevance is lost",
    "H3": "weights vary within an epoch",
    "V1": "beats single task and uniform",
    "V2": "no worse than DIW",
    "G1": "no gain over single-task training",
    "G2": "no strategy is best everywhere",
    "G3": "gains shrink as data grow",
    "A1": "low-level auxiliaries belong to a low layer",
    "A2": "routing ahead with many tasks",
    "A3": "two backbones ahead of a wide trunk",
    "A4": "TAPS near separate models, and smaller",
}
"""Claim to a few words."""


def matrices(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The verdicts to draw: title to a frame with a row per claim and test, a column per setting; empty if unasked."""
    found = {}
    for letter, title in PANELS.items():
        rows = table[table["claim"].str[0] == letter]
        places = [f"{TITLES[row.study]}\n{row.where}".strip().replace(", ", "\n") for row in rows.itertuples()]
        places = [place.replace("% label noise", " %").replace(" rows", "") for place in places]
        tests = [f"{row.claim} {IN_SHORT[row.claim]}, {row.what}" for row in rows.itertuples()]
        tests = [test.removesuffix(f", {AS_IT_SAYS}") for test in tests]
        wide = rows.assign(place=places, test=tests).pivot(index="test", columns="place", values="verdict")
        order = sorted(set(places), key=lambda place: places.index(place) if letter != "S" else _studies_first(place))
        found[title] = wide.loc[list(dict.fromkeys(tests)), order].fillna("").rename(columns=_broken)
    return found


def _broken(place: str) -> str:
    """A narrow label."""
    for wide, narrow in (("Multi-", "Multi-\n"), ("WinoG", "Wino-\nG"), ("each digit in turn", "")):
        place = place.replace(wide, narrow)
    return re.sub(" (toy|pair|tasks)", r"\n\1", place).strip()


def _studies_first(place: str) -> tuple[int, str]:
    return list(TITLES.values()).index(place.split("\n")[0]), place


def short(table: pd.DataFrame) -> pd.DataFrame:
    """A row per claim for a front page: how many of its settings have which verdict."""
    rows = []
    for claim, settings in table.groupby("claim", sort=False):
        counts = settings["verdict"].value_counts()
        verdicts = [f"{verdict} {counts[verdict]}" for verdict in VERDICTS[:-1] if verdict in counts]
        row = {"claim": claim, "what the paper says": f"{settings['sentence'].iloc[0]} ({settings['source'].iloc[0]})"}
        row["settings tested"] = f"{len(settings) - counts.get(VERDICTS[-1], 0)} of {len(settings)}"
        rows.append(row | {"verdicts": ", ".join(verdicts) or "none yet"})
    return pd.DataFrame(rows).set_index("claim")


def sentences(table: pd.DataFrame) -> str:
    """The table in words: a line of Markdown per claim and setting that has been tested."""
    lines = []
    for row in table[table["holds"] != NONE].itertuples(index=False):
        note = "" if row.note == "none" else f" ({row.note})"
        linear = "; a linear model is as good" if row.linear == "as good" else ""
        lines.append(
            f"- **{row.claim}**, {row.setting} ({row.study}): **{row.verdict}**{note}. {row.holds} comparisons "
            f"hold; the one that speaks least for it is {row.comparison}: {row.ours} against {row.theirs}, a "
            f"difference of {row.difference} {row.interval}{linear}."
        )
    return "\n".join(lines) or "No claim has been tested yet."
