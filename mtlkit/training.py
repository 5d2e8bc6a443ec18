"""Train: one visible loop, the seeds of a run stacked into one program."""

from __future__ import annotations

import copy
import functools
import math
import numbers
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import joblib
import pandas as pd
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from mtlkit import recipes
from mtlkit.checkpoint import Checkpoint, check_plain, draws, files_of, in_words, of_method, restored_method
from mtlkit.checks import check_draw, check_finite, check_inputs, first_line, numbers_of
from mtlkit.datasets import Dataset, Split
from mtlkit.engine import Descent, check_elementwise
from mtlkit.merging import Branches, Merging
from mtlkit.models import MultiTaskModel
from mtlkit.progress import progress
from mtlkit.results import IncompleteRuns, Recorder, Runs, join
from mtlkit.stack import Batches, Stack, generator, stack_splits, stacks_well, take
from mtlkit.weighting import Weighting, per_sample
from mtlkit.workers import parallel

PURPOSES = ("order", "meta order", "branch order", "noise")
"""Each seed has a random stream of its own for each of these, and for its initial weights and dropout."""

BATCH_SIZE = 64
SGD = functools.partial(torch.optim.SGD, momentum=0.9)


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

    Every seed has its own draw of the data (``data.resample(seed)``), initial weights, data order and
    dropout masks; those are the same for every method, so runs can be compared in pairs. How many
    seeds are trained together, and in how many processes, changes nothing but the speed and the rounding
    (float64: 1e-10 after a few steps; float32: rounding errors grow with the steps as they do on another
    processor).

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
        optimizer: called with the stacked parameters and ``lr``; an elementwise optimiser of
            ``torch.optim``.
        clip: largest gradient norm of a step, for each seed by itself; for per-step methods.
        initial: seed to the values that its model starts from, by the names of parameters and buffers; what it
            does not name is drawn as always. ``runs.state_dict`` starts each seed from the run of the same
            seed, which had the same draw of the data, so that no test row was trained on before.
        seeds: a number of seeds, 0 to seeds - 1, or the seeds themselves.
        chunk: how many seeds are stacked into one program, which bounds the memory. When None: all,
            but one for a model with convolutions on a CPU, where stacked convolutions are slow.
        jobs: processes that train chunks side by side.
        dtype: of parameters and inputs.
        autocast: run the model in bfloat16 where torch.autocast finds that safe.
        compile: trace and compile the step (:class:`mtlkit.engine.Descent`), for per-step methods. It
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
            head for, a model made for other inputs, a layer that cannot be stacked (:class:`mtlkit.stack.Stack`), an
            optimiser that is not elementwise, a learning rate or clip out of range, ``watch`` with several processes,
            ``clip`` or ``compile`` for a per-epoch method; initial values that do not fit the model, a trunk that is
            not trained under a weighting that reads its gradients; inputs or targets that are not finite as ``dtype``,
            no main label in the meta split; a checkpoint that is damaged or of another training, which stays as it is.
        TypeError: ``weighting`` is neither a Weighting nor a Merging, ``model`` no MultiTaskModel, a count that is no
            integer.
    """
    options = dict(locals())
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
    seeds = numbers_of(seeds)
    counts = {
        "epochs": epochs, "batch_size": batch_size, "meta_batch_size": meta_batch_size,
        "steps_per_epoch": steps_per_epoch, "patience": patience, "select_from": select_from, "chunk": chunk,
        "jobs": jobs,
    }  # fmt: skip
    for what, number in counts.items():
        optional = what not in ("epochs", "batch_size", "select_from", "jobs")
        if not (isinstance(number, numbers.Integral) and number is not True) and not (optional and number is None):
            raise TypeError(f"{what} is {number!r}, expected an integer")
    if not isinstance(lr, numbers.Real) or not 0 <= lr < math.inf:
        raise ValueError(f"lr is {lr!r}, expected a positive number (or 0, which trains nothing)")
    lr = float(lr)
    if clip is not None and not (isinstance(clip, numbers.Real) and clip > 0):
        raise ValueError(f"clip is {clip!r}, expected None or a positive number")
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise TypeError(f"dtype is {dtype!r}, expected a floating-point one such as torch.float32")
    if lr > torch.finfo(dtype).max:
        raise ValueError(f"lr is {lr!r}, expected a number that {dtype} can hold")
    if set(model.names) != {task.name for task in data.tasks}:
        raise ValueError(f"the model has heads {list(model.names)}, expected {[t.name for t in data.tasks]}")
    if meta_batch_size is None:
        meta_batch_size = min(4 * batch_size, len(data.meta))
    for what, size, split in (("batch_size", batch_size, "train"), ("meta_batch_size", meta_batch_size, "meta")):
        rows = len(data.splits[split])
        if not 1 <= size <= rows:
            raise ValueError(f"{what} is {size}, expected 1 to {rows} (rows of the {split} split)")
    steps_per_epoch = len(data.train) // batch_size if steps_per_epoch is None else steps_per_epoch
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros((), device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device is {device!r}, expected one that is there ({first_line(error)})") from None
    if chunk is None:
        chunk = len(seeds) if stacks_well(model, device) else 1
    counts = {"epochs": epochs, "steps_per_epoch": steps_per_epoch, "chunk": chunk, "jobs": jobs}
    for what, number in {**counts, "patience": patience}.items():
        if number is not None and number < 1:
            raise ValueError(f"{what} is {number}, expected at least 1")
    if not 1 <= select_from <= epochs:
        raise ValueError(f"select_from is {select_from}, expected an epoch from 1 to {epochs}")
    if watch is not None and jobs > 1:
        raise ValueError(f"jobs is {jobs}, but watch sees one process only: expected jobs=1")
    if isinstance(weighting, Merging) and (clip is not None or compile):
        raise ValueError(f"clip and compile are for per-step methods, {type(weighting).__name__} merges once per epoch")
    trained = any(p.requires_grad for name, p in model.named_parameters() if name.startswith("trunk."))
    if isinstance(weighting, Weighting) and not trained and any(request.of_shared for request in weighting.reads):
        raise ValueError(f"no parameter of the trunk is trained, but {type(weighting).__name__} reads their gradients")
    if watch is not None and not callable(watch):
        raise TypeError(f"watch is {watch!r}, expected a function")
    check_elementwise(functools.partial(optimizer, lr=lr))
    check_draw(data, dtype)
    check_inputs(model, data, device, dtype)

    label = name or type(weighting).__name__
    chunks = [seeds[start : start + chunk] for start in range(0, len(seeds), chunk)]
    train = functools.partial(
        _train, model, data, weighting, epochs=epochs, batch_size=batch_size, meta_batch_size=meta_batch_size,
        steps_per_epoch=steps_per_epoch, patience=patience, select_from=select_from, lr=lr, optimizer=optimizer,
        clip=clip, initial=initial, dtype=dtype, autocast=autocast, compile=compile, device=device, label=label,
    )  # fmt: skip
    files: list[Checkpoint | None] = [None] * len(chunks)
    if checkpoint is not None:
        settings = train.keywords | {"seeds": seeds, "chunk": chunk, "model": model, "weighting": weighting}
        settings |= {"data": draws(data, seeds[0], epochs), "device": str(device), "torch": torch.__version__}
        files = files_of(Path(checkpoint), {what: in_words(value) for what, value in settings.items()}, chunks)
    done: dict[int, Runs] = {}
    stopped = False
    try:
        if jobs > 1 and len(chunks) > 1:
            calls = [joblib.delayed(_numbered)(n, train, part, files[n]) for n, part in enumerate(chunks)]
            for n, runs in parallel(calls, jobs):
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
        join([done[n] for n in sorted(done)]), architecture=copy.deepcopy(model).cpu(), recipe=_recipe(**options)
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


def _numbered(number: int, train: Callable[..., Runs], seeds: Sequence[int], file: Checkpoint | None) -> tuple:
    runs = train(seeds, checkpoint=file)
    if runs.interrupted:
        raise KeyboardInterrupt
    return number, runs


def _warn_of_interruption(runs: Runs, epochs: int, left: Sequence[int], files: Sequence[Checkpoint | None]) -> None:
    ends = runs.frame.groupby("seed", sort=False)["epoch"].max()
    missing = f", without seeds {', '.join(map(str, left))}" if left else ""
    if files[0] is None:
        how = "give fit a checkpoint=FILE to be able to go on"
    else:
        kept = ", ".join(str(file.epoch()) for file in files)
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


def _recipe(model: MultiTaskModel, data: Dataset, weighting: Weighting | Merging, **options: object) -> str:
    """The call of :func:`fit` as text; empty where an argument cannot be written down."""
    try:
        line = recipes.call(fit, **{name: value for name, value in options.items() if name not in SAME_NUMBERS})
        given = (getattr(model, "recipe", "model"), data.recipe or "data", recipes.of(weighting))
        return f"fit({', '.join(filter(None, [*given, line.removeprefix('fit(').removesuffix(')')]))})"
    except (TypeError, ValueError):
        return ""


def _train(
    model: MultiTaskModel,
    data: Dataset,
    weighting: Weighting | Merging,
    seeds: Sequence[int],
    *,
    epochs: int,
    batch_size: int,
    meta_batch_size: int,
    steps_per_epoch: int,
    patience: int | None,
    select_from: int,
    lr: float,
    optimizer: Callable[..., torch.optim.Optimizer],
    clip: float | None,
    initial: Callable[[int], Mapping[str, Tensor]] | None,
    dtype: torch.dtype,
    autocast: bool,
    compile: bool,
    device: str | torch.device,
    label: str,
    checkpoint: Checkpoint | None = None,
    watch: Callable[[pd.DataFrame], None] | None = None,
) -> Runs:
    """Train these seeds as one program; see :func:`fit`."""
    draws = [data.resample(seed) for seed in seeds]
    for draw in draws:
        check_draw(draw, dtype)

    def stacked(split: str, epoch: int = 0) -> Split:
        parts = [draw.train_at(epoch) if epoch else draw.splits[split] for draw in draws]
        if epoch:
            for part in parts:
                check_finite(f"{data.name}, train split of epoch {epoch}", part, dtype)
        return stack_splits(parts, data.tasks, device, dtype)

    splits = {split: stacked(split) for split in data.splits}
    stack = Stack(model, data.tasks, seeds, device, dtype, autocast, initial)
    streams = {purpose: [generator(seed, purpose, device) for seed in seeds] for purpose in PURPOSES}
    train_rows = Batches(len(data.train), batch_size, streams["order"])
    meta_rows = Batches(len(data.meta), meta_batch_size, streams["meta order"])
    like = next(iter(stack.parameters.values())).detach()
    start = tree_map(lambda t: t.expand(len(seeds), *t.shape).clone(), weighting.init(len(data.tasks), like))
    recorder = Recorder(label, seeds, draws, splits, patience, select_from)
    if isinstance(weighting, Merging):
        trainer = Branches(
            stack.losses,
            stack.main_loss,
            None if weighting.metric is None else functools.partial(stack.main_score, weighting.metric),
            stack.masks,
            take,
            splits,
            data.tasks,
            steps_per_epoch,
            batch_size,
            functools.partial(optimizer, lr=lr),
            streams["branch order"],
            stacked=stacks_well(stack.template, device),
            penalty=stack.penalty if stack.has_penalty else None,
        )
    else:
        learned = weighting.learn(len(data.tasks), like)
        learned = None if learned is None else learned.expand(len(seeds), -1).clone()
        trainer = Descent(stack, weighting, learned, optimizer, lr, clip=clip, compile=compile)
    kinds = {k: torch.tensor([task.kind == k for task in data.tasks], device=device) for k in ("regression", "binary")}

    def given(epoch: int) -> dict[str, Tensor]:
        on = {"dtype": dtype, "device": device}
        fields = {
            "noise": lambda: torch.stack([torch.randn(len(data.tasks), generator=g, **on) for g in streams["noise"]]),
            "epoch": lambda: torch.full((len(seeds),), epoch - 1, device=device),
            **{kind: lambda rows=rows: rows.expand(len(seeds), -1) for kind, rows in kinds.items()},
        }
        asked = {request.field for request in weighting.reads}
        return {name: field() for name, field in fields.items() if name in asked}

    def evaluate() -> None:
        outputs = {split: stack.outputs(rows.x) for split, rows in splits.items()}
        recorder.evaluated(outputs, {**stack.parameters, **stack.buffers})

    def whole() -> dict[str, object]:
        return {
            "stack": stack.state(),
            "trainer": trainer.state(),
            "train rows": train_rows.state(),
            "meta rows": meta_rows.state(),
            "noise": [stream.get_state() for stream in streams["noise"]],
            "method": of_method(state),
            "recorder": recorder.state(),
        }

    kept = None if checkpoint is None else checkpoint.load()
    if kept is None:
        done, state = 0, start
        evaluate()
    else:
        done, saved = kept
        for part, name in (
            (stack, "stack"),
            (trainer, "trainer"),
            (train_rows, "train rows"),
            (meta_rows, "meta rows"),
        ):
            part.restore(saved[name])
        for stream, position in zip(streams["noise"], saved["noise"], strict=True):
            stream.set_state(position)
        state = restored_method(weighting, start, saved["method"])
        recorder.restore(saved["recorder"])
        if data.train_at is not None:
            splits["train"] = stacked("train", done)
    if checkpoint is not None:
        check_plain(whole())
    recorded = recorder.state()
    left = range(done + 1, epochs + 1) if done == 0 or not recorder.all_finished() else ()
    try:
        for epoch in progress(left, f"{label} on {data.name}"):
            if data.train_at is not None:
                splits["train"] = stacked("train", epoch)
            present = stack.present(splits["train"])
            if isinstance(weighting, Merging):
                trainer.data = splits["train"]
                merged = weighting.epoch(trainer.epoch(stack.parameters), state)
                state = merged.state
                with torch.no_grad():
                    for name, value in stack.parameters.items():
                        value.copy_(merged.parameters[name])
                every_row = torch.arange(len(data.train), device=device).expand(len(seeds), -1)
                recorder.weighed(every_row, per_sample(merged.weights, present))
                recorder.reported(merged.report)
            else:
                for _ in range(steps_per_epoch):
                    rows = next(train_rows)
                    batch, labelled = take(splits["train"], rows), present[recorder.seed_axis, rows]
                    meta = take(splits["meta"], next(meta_rows)) if weighting.uses_meta else None
                    weights, state = trainer(batch, meta, state, present=labelled, **given(epoch))
                    recorder.weighed(rows, per_sample(weights, labelled))
            evaluate()
            done, recorded = epoch, recorder.state()
            finished = recorder.all_finished()
            if checkpoint is not None and (finished or epoch == epochs or checkpoint.due()):
                checkpoint.save(epoch, whole())
            if watch is not None:
                watch(recorder.weight_rows())
            if finished:
                break
        return recorder.runs()
    except KeyboardInterrupt:
        if not done:
            raise
        recorder.restore(recorded)
        return replace(recorder.runs(), interrupted=True)
