"""Save a table or a figure and show it, with what it says as its heading: the last line of most cells."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
from IPython.display import Markdown, display
from matplotlib.figure import Figure

from companion import figures, tables


def show(
    what: Figure | pd.DataFrame,
    name: str,
    folder: str | Path | None,
    *,
    says: str,
    how: str = "",
    numbers: pd.DataFrame | None = None,
) -> None:
    """Save ``what`` as ``name`` into ``folder`` (nowhere if None) and display it under what it says.

    A figure's text/plain and its alternative text are ``says`` and ``how``.

    Args:
        says: the finding, in a sentence written from the numbers; stands above in bold.
        how: what is drawn, and what its bars are.
        numbers: for a table, what to save as csv; the table itself when None.
    """
    if says[0].isascii():  # such as a word; a capital α is another letter
        says = says[0].upper() + says[1:]
    display(Markdown(f"**{says}** {how}".strip()))
    if isinstance(what, Figure):
        figures.save_figure(what, folder, name)
        picture = io.BytesIO()
        with figures.style():
            what.savefig(picture, metadata={"Software": None}, dpi=figures.SCREEN)
        alternative = f"{says} {how}".strip().replace("\n", " ")
        data = {"image/png": picture.getvalue(), "text/plain": alternative}
        display(data, raw=True, metadata={"image/png": {"alt": alternative}})
        return
    tables.save_table(what.reset_index() if numbers is None else numbers, what, folder, name)
    display(what)
