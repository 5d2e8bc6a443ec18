"""The claims table: a row per claim, setting and scale; see :mod:`mtlkit.claims`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from mtlkit import paired
from mtlkit.claims._rules import HIGHER_IS_BETTER, Claim, test

NONE = "not tested"
"""What a cell says where there is nothing to say."""

COLUMNS = [
    "claim",
    "source",
    "sentence",
    "setting",
    "scale",
    "verdict",
    "holds",
    "comparison",
    "ours",
    "theirs",
    "difference",
    "interval",
    "p",
    "seeds",
    "papers_number",
    "study",
    "figure",
    "note",
]


def table(
    claims: Sequence[Claim], numbers: Mapping[str, Mapping[str, pd.DataFrame | None]]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Test all claims at all scales.

    Args:
        numbers: scale (``"quick"``, ``"paper"``) to study to its per-seed numbers, None where it has not been run; a
            claim whose study is not listed at a scale has no row there.

    Returns:
        the claims, a row each: :data:`COLUMNS`, where the numbers are those of the comparison that speaks
        least for the claim, p is corrected after Holm, and no cell is empty; and all comparisons behind
        them, with the columns claim, setting, scale, study and those of :func:`mtlkit.claims.outcomes`.
    """
    rows, behind = [], []
    for scale, studies in numbers.items():
        for claim in claims:
            if claim.study not in studies:
                continue
            verdict, note, found = test(claim, studies[claim.study], scale)
            key = {"claim": claim.id, "setting": claim.setting, "scale": scale, "study": claim.study}
            shown = dict.fromkeys(COLUMNS, NONE) | key
            shown |= {"source": claim.source, "sentence": claim.sentence, "papers_number": claim.paper}
            shown |= {"figure": claim.figure, "verdict": verdict, "note": note or "none"}
            if len(found):
                shown |= _weakest(found)
                behind.append(found.assign(**key)[[*key, *found.columns]])
            rows.append(shown)
    comparisons = pd.concat(behind, ignore_index=True) if behind else pd.DataFrame()
    return pd.DataFrame(rows, columns=COLUMNS), comparisons


def _weakest(found: pd.DataFrame) -> dict[str, object]:
    """How many comparisons hold, and the one that speaks least for the claim."""
    row = found.loc[found["support"].idxmin()]
    return {
        "holds": f"{found['holds'].sum()} of {len(found)}",
        "comparison": f"{row['method']} against {row['against']}, {row['metric']}, {row['condition']}",
        "ours": _number(row["ours"]),
        "theirs": _number(row["theirs"]),
        "difference": _number(row["difference"], "+"),
        "interval": f"[{_number(row['low'], '+')}, {_number(row['high'], '+')}]",
        "p": "below 0.001" if row["p_holm"] < 0.001 else f"{row['p_holm']:.3f}",
        "seeds": f"{row['seeds'] - row['missing']} of {row['seeds']}",
    }


def _number(value: float, sign: str = "") -> str:
    return f"{value:{sign}.3f}" if abs(value) < 1000 else f"{value:{sign}.1e}"


def readable(table: pd.DataFrame, root: str = "../..") -> pd.DataFrame:
    """The claims table to read, a row each, with links.

    Args:
        root: of the project, as seen from where the text will be.
    """
    rows = []
    for row in table.itertuples(index=False):
        figure = f"{root}/figures/{row.study}/{row.figure}.svg"
        decisive = f"{row.ours} against {row.theirs}, {row.difference} {row.interval}, p {row.p}: {row.comparison}"
        rows.append(
            {
                "claim": row.claim,
                "what the paper says": f"{row.sentence} ({row.source})",
                "tested as": row.setting,
                "scale": row.scale,
                "verdict": f"**{row.verdict}**",
                "comparisons that hold": row.holds,
                "the one that speaks least for it": row.note if row.holds == NONE else decisive,
                "the paper's number": row.papers_number,
                "see": f"[{row.study}]({root}/notebooks/{row.study}.ipynb), [figure]({figure})",
            }
        )
    return pd.DataFrame(rows).set_index("claim")


def short(table: pd.DataFrame, root: str = ".") -> pd.DataFrame:
    """A row per claim for a front page: every verdict with its setting and numbers, notebooks and figures.

    The numbers are those of the comparison that speaks least for the claim. Settings that were not tested are
    left out, unless none was.
    """
    rows = []
    for claim, settings in table.groupby("claim", sort=False):
        tested = settings[settings["holds"] != NONE]
        verdicts, see = [], {}
        for row in tested.itertuples(index=False):
            scale = "" if row.scale == "quick" else " at paper scale"
            numbers = f"({row.holds}; {row.ours}, {row.theirs})"
            verdicts.append(f"**{row.verdict}** {numbers}: {row.study}{scale}, {row.setting}")
        for row in (settings if tested.empty else tested).itertuples(index=False):
            figure = f"{root}/figures/{row.study}/{row.figure}.svg"
            see[row.study] = f"[{row.study}]({root}/notebooks/{row.study}.ipynb) ([figure]({figure}))"
        rows.append(
            {
                "claim": claim,
                "what the paper says": f"{settings['sentence'].iloc[0]} ({settings['source'].iloc[0]})",
                "what we found": "<br>".join(verdicts) or "**not tested here**",
                "see": "<br>".join(see.values()),
            }
        )
    return pd.DataFrame(rows).set_index("claim")


def sentences(table: pd.DataFrame) -> str:
    """The table in words: a line of Markdown per claim, setting and scale that has been tested."""
    lines = []
    for row in table[table["holds"] != NONE].itertuples(index=False):
        note = "" if row.note == "none" else f" ({row.note})"
        scale = "" if row.scale == "quick" else " at paper scale"
        lines.append(
            f"- **{row.claim}**, {row.setting} ({row.study}{scale}): **{row.verdict}**{note}. {row.holds} comparisons "
            f"hold; the one that speaks least for it is {row.comparison}: {row.ours} against {row.theirs}, a "
            f"difference of {row.difference} {row.interval}."
        )
    return "\n".join(lines) or "No claim has been tested yet."


def halvings(table: pd.DataFrame, condition: str, metric: str, reference: str) -> pd.DataFrame:
    """How many times each method halves the reference's loss, in pairs over seeds: a unit for all studies.

    For a metric between 0 and 1 to be raised, such as accuracy, the loss is what is missing to 1.

    Args:
        table: the per-seed numbers of a study.

    Returns:
        :func:`mtlkit.paired.gains` of log2 of the loss: 1 is half the loss, -1 twice the loss.
    """
    rows = table[(table["condition"] == condition) & (table["metric"] == metric)]
    loss = 1 - rows["value"] if metric in HIGHER_IS_BETTER else rows["value"]
    return paired.gains(rows.assign(value=np.log2(loss.where(loss > 0))), metric, reference)
