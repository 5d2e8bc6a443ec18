"""Work in other processes, which end with the one that started them, or on the workers of a Dask cluster."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import joblib

PAUSE = 1.0
"""Seconds between a worker's looks at whether its parent is still there."""


def parallel(calls: Iterable[tuple], jobs: int, *, scheduler: str | None = None) -> Iterator[tuple[int, Any]]:
    """What calls made with ``joblib.delayed`` return, each with its number from 0, as they finish.

    A process makes one call at a time; one that is started here ends a second or so after its parent,
    whatever ended that one.

    Args:
        jobs: processes; with 1 the calls run in this one.
        scheduler: address of a Dask scheduler, such as ``tcp://host:8786``, whose workers make the calls instead, or
            None.

    Raises:
        ImportError: ``scheduler`` without ``distributed``.
        ValueError: a worker of the cluster has several threads.
        OSError: no scheduler at that address.
    """
    calls = (joblib.delayed(_numbered)(n, *call) for n, call in enumerate(calls))
    if scheduler is None:
        ends = {} if jobs == 1 else {"backend": "loky", "initializer": _end_with, "initargs": (os.getpid(),)}
        yield from joblib.Parallel(n_jobs=jobs, batch_size=1, return_as="generator_unordered", **ends)(calls)
        return
    try:
        from distributed import Client
    except ImportError as error:
        raise ImportError("scheduler needs distributed; install it with: pip install mtlkit[dask]") from error
    with Client(scheduler, set_as_default=False) as client:
        for address, threads in client.nthreads().items():
            if threads != 1:
                raise ValueError(f"worker {address} has {threads} threads, expected one (dask worker --nthreads 1)")
        with joblib.parallel_config("dask", client=client):
            yield from joblib.Parallel(n_jobs=-1, batch_size=1, return_as="generator_unordered")(calls)


def _numbered(number: int, function: Callable, given: tuple, options: dict) -> tuple[int, Any]:
    return number, function(*given, **options)


def _end_with(parent: int) -> None:
    """Let this process end when it is no longer the child of ``parent``."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PAUSE)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
