"""One progress bar for terminals and notebooks, log lines for unattended runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator

from tqdm.auto import tqdm


def progress(steps: Iterable, label: str) -> Iterator:
    """Iterate over ``steps`` (which has a length) and show how far it is.

    A bar in a terminal or an interactive notebook, nothing where nobody looks. The environment
    variable ``MTLKIT_PROGRESS`` overrules: ``log`` writes one line to stderr at the end (for
    papermill's log), ``off`` nothing.
    """
    mode = os.environ.get("MTLKIT_PROGRESS", "auto")
    if mode == "auto":
        in_notebook = "ipykernel" in sys.modules
        yield from tqdm(steps, desc=label, leave=False, disable=False if in_notebook else None)
        return
    yield from steps
    if mode == "log":
        print(f"done: {label}", file=sys.stderr, flush=True)
