"""Train a model on data under a weighting: arguments in, runs out."""

from __future__ import annotations

import copy
import functools
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import joblib
import pandas as pd
import torch
from torch import Tensor

from mtlkit import recipes
from mtlkit.checkpoint import Checkpoint, draws, files_of, fingerprint
from mtlkit.datasets import Dataset
from mtlkit.merging import Merging
from mtlkit.models import MultiTaskModel
from mtlkit.results import IncompleteRuns, Runs, join_runs
from mtlkit.training import loop
from mtlkit.training.checks import check_draw, check_model, seed_numbers
from mtlkit.training.descent import check_elementwise
from mtlkit.training.settings import BATCH_SIZE, SGD, Settings, check_count
from mtlkit.training.stack import stacks_well
from mtlkit.weighting import Weighting
from mtlkit.workers import parallel


def fit(
    model: MultiTaskModel,
    data: Dataset,
    weighting: Weighting | Merging,
    *,
    epochs: int = 50,
    batch_size: int = BATCH_SIZE,
    meta_batch_size: int | None = None,
    steps_per_epoch: int | None = None,
    patience: int | None = None,
    select_from: int = 1,
    lr: float = 1e-2,
    optimizer: Callable[..., torch.optim.Optimizer] = SGD,
    clip: float | None = None,
    initial: Callable[[int], Mapping[str, Tensor]] | None = None,
    seeds: int | Sequence[int] = 1,
    chunk: int | None = None,
    jobs: int = 1,
    dtype: torch.dtype = torch.float32,
    autocast: bool = False,
    compile: bool = False,
    device: str | torch.device = "auto",
    name: str | None = None,
    watch: Callable[[pd.DataFrame], None] | None = None,
    checkpoint: str | os.PathLike | None = None,
) -> Runs:
    """Train ``model`` on ``data`` under ``weighting``, once per seed.

    Every seed has its own draw of the data (``data.resample(seed)``), initial weights, data order and dropout masks;
    those are the same for every method, so runs can be compared in pairs. How many seeds are trained together, and in
    how many processes, changes nothing but the speed and the rounding (float64: 1e-10 after a few steps; float32:
    rounding errors grow with the steps as they do on another processor).

    Ctrl-C (KeyboardInterrupt) ends the training at once and returns what there is up to the last full epoch,
    with ``Runs.interrupted`` set and a warning; where not one epoch is there it goes through. With several processes
    only the chunks that are finished are there. A seed that diverged is warned of at the end.

    Args:
        model: gives the architecture; it is not changed. Parameters that do not require a gradient are not trained.
        epochs: number of evaluations after training has begun, at most; an epoch has ``steps_per_epoch`` steps.
        batch_size: rows per step, drawn from shuffled passes over the training split (a batch may
            span two passes, so that all batches have this size).
        meta_batch_size: rows of the meta split per step, for methods that look at it; four
            batches, or the whole split if that is smaller, when None.
        steps_per_epoch: one pass over the training split, rounded down, when None. For a per-epoch
            method these are the steps of one of its branches that trains on all of its data once
            (see :class:`mtlkit.merging.Merging` for a comparison at equal cost).
        patience: a seed is finished once its main-task loss on the meta split has not fallen below its lowest
            for this many epochs; what is recorded of it does not depend on the seeds that go on. All seeds
            train for ``epochs`` when None.
        select_from: first epoch that may be selected (:meth:`mtlkit.results.Runs.selected`), such as the first
            after a drift. The state before training never is.
        lr: learning rate, handed to ``optimizer``.
        optimizer: called with the stacked parameters and ``lr``; an elementwise optimiser of ``torch.optim``.
        clip: largest gradient norm of a step, for each seed by itself; for per-step methods.
        initial: seed to the values that its model starts from, by the names of parameters and buffers; what it
            does not name is drawn as always, but heads without all of the trunk are refused. ``runs.state_dict``
            starts each seed from the run of the same seed, which had the same draw of the data, so that no test
            row was trained on before.
        seeds: a number of seeds, 0 to seeds - 1, or the seeds themselves.
        chunk: how many seeds are stacked into one program, which bounds the memory. When None: all,
            but one for a model with convolutions on a CPU, where stacked convolutions are slow.
        jobs: processes that train chunks side by side.
        dtype: of parameters and inputs.
        autocast: run the model in bfloat16 where torch.autocast finds that safe.
        compile: trace and compile the step (:class:`mtlkit.training.descent.Descent`), for per-step methods. It
            takes a compiler and half a minute or more at the start.
        device: ``"auto"`` is the GPU if there is one.
        name: what the frame calls this method; the weighting's class name when None.
        watch: called after every epoch with the frame's rows of metric ``weight`` so far.
        checkpoint: file that keeps the whole state of the training, written at the end of an epoch, every two minutes
            (:data:`mtlkit.checkpoint.INTERVAL`) at most, and at the end of each chunk. Called again with the same
            arguments, ``fit`` goes on from there and returns the bytes of a run that was never stopped (on the same
            machine, with as many threads). Further chunks have files of their own, ``<checkpoint>.1`` and so on.
            All are deleted when the training is complete. Functions among the arguments are told apart by their names.

    Raises:
        ValueError: a batch larger than its split, no epochs, no steps, no patience, no seeds, tasks the model has no
            head for, a model made for other inputs, a layer that cannot be stacked
            (:class:`mtlkit.training.stack.Stack`), an optimiser that is not elementwise, a learning rate or clip out
            of range, ``watch`` with several processes, ``clip`` or ``compile`` for a per-epoch method; initial values
            that do not fit the model, a trunk that is not trained under a weighting that reads its gradients; inputs
            or targets that are not finite as ``dtype``, no main label in the meta split; a checkpoint that is damaged
            or of another training, which stays as it is.
        TypeError: ``weighting`` is neither a Weighting nor a Merging, ``model`` no MultiTaskModel, a count that is no
            integer.
    """
    options = dict(locals())
    _check_kinds(model, data, weighting, name, watch)
    seeds = seed_numbers(seeds)
    check_count("batch_size", batch_size, least=None)
    check_count("chunk", chunk, optional=True)
    check_count("jobs", jobs)
    given = {field.name: options[field.name] for field in fields(Settings)}
    if meta_batch_size is None:
        given["meta_batch_size"] = min(4 * batch_size, len(data.meta))
    if steps_per_epoch is None:
        given["steps_per_epoch"] = max(len(data.train) // max(batch_size, 1), 1)
    if device == "auto":
        given["device"] = "cuda" if torch.cuda.is_available() else "cpu"
    settings = Settings(**given)
    if set(model.names) != {task.name for task in data.tasks}:
        raise ValueError(f"the model has heads {list(model.names)}, expected {[t.name for t in data.tasks]}")
    settings = replace(settings, lr=float(lr))
    settings.check(data)
    if chunk is None:
        chunk = len(seeds) if stacks_well(model, settings.device) else 1
    if watch is not None and jobs > 1:
        raise ValueError(f"jobs is {jobs}, but watch sees one process only: expected jobs=1")
    _check_method(model, weighting, settings)
    check_elementwise(functools.partial(optimizer, lr=settings.lr))
    check_draw(data, dtype)
    check_model(model, data, settings.device, dtype)

    label = name or type(weighting).__name__
    chunks = [seeds[start : start + chunk] for start in range(0, len(seeds), chunk)]
    kind = loop.PerEpoch if isinstance(weighting, Merging) else loop.PerStep
    train = functools.partial(loop.train_stack, functools.partial(kind, model, data, weighting, settings, label))
    files: list[Checkpoint | None] = [None] * len(chunks)
    if checkpoint is not None:
        of_run = {
            **vars(settings),
            "label": label,
            "seeds": seeds,
            "chunk": chunk,
            "model": model,
            "weighting": weighting,
        }
        of_run |= {"data": draws(data, seeds[0], epochs), "device": str(settings.device), "torch": torch.__version__}
        files = [*files_of(Path(checkpoint), {what: fingerprint(value) for what, value in of_run.items()}, chunks)]
    done: dict[int, Runs] = {}
    stopped = False
    try:
        if jobs > 1 and len(chunks) > 1:
            parts = zip(chunks, files, strict=True)
            for n, runs in parallel([joblib.delayed(_uninterrupted)(train, *part) for part in parts], jobs):
                done[n] = runs
        else:
            for n, part in enumerate(chunks):
                before = [run.weights() for run in done.values()]
                show = None if watch is None else lambda rows, before=before: watch(pd.concat([*before, rows]))
                done[n] = train(part, checkpoint=files[n], watch=show)
                if done[n].interrupted:
                    break
    except KeyboardInterrupt:
        stopped = True
        if not done:
            raise
    runs = replace(
        join_runs([done[n] for n in sorted(done)]), architecture=copy.deepcopy(model).cpu(), recipe=_recipe(**options)
    )
    if stopped or runs.interrupted:
        runs = replace(runs, interrupted=True)
        _warn_of_interruption(runs, epochs, [s for s in seeds if s not in runs.seeds], files)
    else:
        for file in files:
            if file is not None:
                file.remove()
    _warn_of_divergence(runs)
    return runs


def _check_kinds(model: object, data: object, weighting: object, name: object, watch: object) -> None:
    """Raise TypeError for an argument of another kind than expected."""
    if not isinstance(weighting, Weighting | Merging):
        raise TypeError(f"weighting is {weighting!r}, expected an instance such as mtlkit.Uniform()")
    if not isinstance(model, MultiTaskModel):
        raise TypeError(
            f"model is a {type(model).__name__}, expected an mtlkit.models.MultiTaskModel: a trunk and heads (a loop "
            "of your own with mtlkit.Weigher takes any model)"
        )
    if not isinstance(data, Dataset):
        raise TypeError(f"data is a {type(data).__name__}, expected an mtlkit.datasets.Dataset")
    if not (name is None or isinstance(name, str)):
        raise TypeError(f"name is {name!r}, expected a text")
    if watch is not None and not callable(watch):
        raise TypeError(f"watch is {watch!r}, expected a function")


def _check_method(model: MultiTaskModel, weighting: Weighting | Merging, settings: Settings) -> None:
    """Raise ValueError where the method cannot do what is asked of it."""
    method = type(weighting).__name__
    if isinstance(weighting, Merging) and (settings.clip is not None or settings.compile):
        raise ValueError(f"clip and compile are for per-step methods, {method} merges once per epoch")
    trained = any(p.requires_grad for name, p in model.named_parameters() if name.startswith("trunk."))
    if isinstance(weighting, Weighting) and not trained and any(request.of_shared for request in weighting.reads):
        raise ValueError(f"no parameter of the trunk is trained, but {method} reads their gradients")


def _uninterrupted(train: Callable[..., Runs], seeds: Sequence[int], file: Checkpoint | None) -> Runs:
    runs = train(seeds, checkpoint=file)
    if runs.interrupted:
        raise KeyboardInterrupt
    return runs


def _warn_of_interruption(runs: Runs, epochs: int, left: Sequence[int], files: Sequence[Checkpoint | None]) -> None:
    ends = runs.frame.groupby("seed", sort=False)["epoch"].max()
    missing = f", without seeds {', '.join(map(str, left))}" if left else ""
    if files[0] is None:
        how = "give fit a checkpoint=FILE to be able to go on"
    else:
        kept = ", ".join(str(file.last_epoch()) for file in files if file)
        how = f"call fit again with the same arguments to go on from the checkpoint (epochs that it holds: {kept})"
    warnings.warn(
        f"{runs.method}: interrupted after epoch {ends.iloc[-1]} of {epochs}{missing}; {how}",
        IncompleteRuns,
        stacklevel=3,
    )


def _warn_of_divergence(runs: Runs) -> None:
    rows = runs.frame[runs.frame["diverged"]]
    ends = rows.groupby("seed", sort=False)["epoch"].max()
    if len(ends):
        which = ", ".join(f"{seed} (epoch {epoch})" for seed, epoch in ends.items())
        warnings.warn(
            f"{runs.method} on {rows['dataset'].iloc[0]}: {len(ends)} of {len(runs.seeds)} seeds diverged, their "
            f"training loss is no longer finite: {which}; a lower lr or a clip may help",
            IncompleteRuns,
            stacklevel=3,
        )


SAME_NUMBERS = ("seeds", "chunk", "jobs", "compile", "device", "name", "watch", "checkpoint")
"""Options of :func:`fit` that say which seeds are trained, where and how fast."""


def _recipe(model: MultiTaskModel, data: Dataset, weighting: Weighting | Merging, **options: Any) -> str:
    """The call of :func:`fit` as text; empty where an argument cannot be written down."""
    try:
        line = recipes.call(fit, **{name: value for name, value in options.items() if name not in SAME_NUMBERS})
        given = (getattr(model, "recipe", "model"), data.recipe or "data", recipes.of(weighting))
        return f"fit({', '.join(filter(None, [*given, line.removeprefix('fit(').removesuffix(')')]))})"
    except (TypeError, ValueError):
        return ""
