"""One progress bar for terminals and notebooks, log lines for unattended runs."""

from __future__ import annotations

import datetime
import os
import sys
import time
from collections.abc import Iterable, Iterator

from tqdm.auto import tqdm

INTERVAL = 60.0
"""Seconds between log lines."""


def progress(steps: Iterable, label: str) -> Iterator:
    """Iterate over ``steps`` (which has a length) and show how far it is.

    A bar in a terminal or an interactive notebook, nothing where nobody looks. The environment
    variable ``MTLKIT_PROGRESS`` overrules: ``log`` writes a line to stderr (for papermill's log) at the end and,
    where it takes long, every minute or so, with what is left; ``off`` nothing.
    """
    mode = os.environ.get("MTLKIT_PROGRESS", "auto")
    if mode == "auto":
        in_notebook = "ipykernel" in sys.modules
        yield from tqdm(steps, desc=label, leave=False, disable=False if in_notebook else None)
        return
    begun = said = time.monotonic()
    for done, step in enumerate(steps, 1):
        yield step
        now = time.monotonic()
        if mode == "log" and now - said > INTERVAL and done < len(steps):
            left = (now - begun) / done * (len(steps) - done)
            ends = datetime.datetime.now() + datetime.timedelta(seconds=left)
            print(
                f"{label}: {done} of {len(steps)}, {left / 60:.0f} min left, ends {ends:%a %H:%M}",
                file=sys.stderr,
                flush=True,
            )
            said = now
    if mode == "log":
        print(f"done: {label}", file=sys.stderr, flush=True)
