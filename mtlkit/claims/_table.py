"""The claims table: a row per claim, setting and scale; see :mod:`mtlkit.claims`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from mtlkit.claims._rules import UNDECIDED, Claim, test

NONE = "not tested"
"""What a cell says where there is nothing to say."""

COLUMNS = [
    "claim",
    "source",
    "sentence",
    "setting",
    "verdict",
    "holds",
    "learned",
    "trained",
    "linear",
    "rows",
    "comparison",
    "ours",
    "theirs",
    "difference",
    "interval",
    "p",
    "seeds",
    "papers_number",
    "study",
    "notebook",
    "figure",
    "note",
]


def table(claims: Sequence[Claim], numbers: Mapping[str, pd.DataFrame | None]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Test all claims.

    Args:
        numbers: study to its per-seed numbers at full scale, None where it has not been run.

    Returns:
        the claims, a row each: :data:`COLUMNS`, where the numbers are those of the comparison that speaks
        least for the claim, p is corrected after Holm, and no cell is empty; and all comparisons behind
        them, with the columns claim, setting, study and those of :func:`mtlkit.claims.outcomes`.
    """
    rows, behind = [], []
    for claim in claims:
        verdict, note, found = test(claim, numbers.get(claim.study))
        key = {"claim": claim.id, "setting": claim.setting, "study": claim.study}
        shown = dict.fromkeys(COLUMNS, NONE) | key
        shown |= {"source": claim.source, "sentence": claim.sentence, "papers_number": claim.paper}
        shown |= {"figure": claim.figure, "notebook": claim.notebook or claim.study, "verdict": verdict}
        shown["note"] = note or "none"
        if len(found):
            shown |= _weakest(found)
            behind.append(found.assign(**key)[[*key, *found.columns]])
        rows.append(shown)
    comparisons = pd.concat(behind, ignore_index=True) if behind else pd.DataFrame()
    return pd.DataFrame(rows, columns=COLUMNS), comparisons


def _weakest(found: pd.DataFrame) -> dict[str, object]:
    """How many comparisons hold and count, and the one among those that count that speaks least for the claim."""
    deciding = found[~found["outcome"].isin(UNDECIDED)]
    row = (found if deciding.empty else deciding).sort_values("support", kind="stable").iloc[0]
    return {
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
        "p": "not tested" if np.isnan(row["p_holm"]) else "<0.001" if row["p_holm"] < 0.001 else f"{row['p_holm']:.3f}",
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


def short(table: pd.DataFrame, root: str = ".") -> pd.DataFrame:
    """A row per claim for a front page: every verdict with its setting and numbers.

    The numbers are those of the comparison that speaks least for the claim. Settings that were not tested are
    left out, unless none was.
    """
    rows = []
    for claim, settings in table.groupby("claim", sort=False):
        verdicts = [
            f"**{row.verdict}** ({row.holds}; {row.ours}, {row.theirs}): {row.study}, {row.setting}"
            for row in settings[settings["holds"] != NONE].itertuples(index=False)
        ]
        rows.append(
            {
                "claim": claim,
                "what the paper says": f"{settings['sentence'].iloc[0]} ({settings['source'].iloc[0]})",
                "what we found": "<br>".join(verdicts) or "not yet run at full scale",
            }
        )
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
