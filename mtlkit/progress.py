"""One progress bar for terminals and notebooks, log lines for unattended runs."""

from __future__ import annotations

import contextlib
import contextvars
import datetime
import os
import sys
import time
from collections.abc import Collection, Iterator
from typing import Any

from tqdm.auto import tqdm

INTERVAL = 60.0
"""Seconds between log lines."""
LOG_LINES = "--Progress.mode=log"
"""The argument that a Jupyter kernel is started with so that log lines take the place of bars."""
_QUIET = contextvars.ContextVar("quiet", default=False)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Within it nothing is shown, for work that is a step of something that shows its own progress."""
    token = _QUIET.set(True)
    try:
        yield
    finally:
        _QUIET.reset(token)


def progress(steps: Collection[Any], label: str) -> Iterator[Any]:
    """Iterate over ``steps`` and show how far it is.

    A bar in a terminal or a notebook, nothing where there is neither, or where tqdm's own environment variable
    ``TQDM_DISABLE`` says so. In a kernel that was started with :data:`LOG_LINES`, a line on stderr at the end and,
    where it takes long, every minute or so, with what is left.
    """
    if _QUIET.get() or os.environ.get("TQDM_DISABLE"):
        yield from steps
    elif not _logged():
        yield from tqdm(steps, desc=label, leave=False, disable=None)
    else:
        begun = said = time.monotonic()
        for done, step in enumerate(steps, 1):
            yield step
            now = time.monotonic()
            if now - said > INTERVAL and done < len(steps):
                left = (now - begun) / done * (len(steps) - done)
                ends = datetime.datetime.now() + datetime.timedelta(seconds=left)
                _say(f"{label}: {done} of {len(steps)}, {left / 60:.0f} min left, ends {ends:%a %H:%M}")
                said = now
        _say(f"done: {label}")


def _logged() -> bool:
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None and str(shell.config.get("Progress", {}).get("mode", "")) == "log"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
