"""Fair comparisons: every method gets the same seeds, splits, budget and choice of learning rate."""

from __future__ import annotations

import functools
import math
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import joblib
import numpy as np
import pandas as pd
import torch
from joblib.externals.loky.process_executor import TerminatedWorkerError

from mtlkit import recipes
from mtlkit.checkpoint import fingerprint
from mtlkit.datasets import Dataset
from mtlkit.merging import Merging
from mtlkit.models import MultiTaskModel
from mtlkit.progress import progress, quiet
from mtlkit.results import IncompleteRuns, Runs
from mtlkit.store import Store
from mtlkit.training import BATCH_SIZE, SAME_NUMBERS, fit
from mtlkit.training.checks import seed_numbers
from mtlkit.training.stack import stacks_well
from mtlkit.weighting import GradientCosine, NoiseLayer, SLGrad, Uniform, Weighting
from mtlkit.workers import parallel


@dataclass(frozen=True)
class Candidate:
    """One contender: a method, the data it may train on, a model for them.

    Attributes:
        options: of :func:`mtlkit.training.fit`, in place of the study's own, for a method that needs
            other numbers at the same budget.
    """

    model: MultiTaskModel
    data: Dataset
    weighting: Weighting | Merging
    options: Mapping[str, object] = field(default_factory=dict)


def contenders(
    data: Dataset,
    model: Callable[[Dataset], MultiTaskModel],
    methods: Mapping[str, Weighting | Sequence[Weighting]],
    meta_batch_sizes: Sequence[int] = (),
    flip: float | None = None,
    rivals: bool = False,
    clean: Dataset | None = None,
) -> dict[str, list[Candidate]]:
    """The methods to compare, with the baselines and ablations that a fair comparison needs.

    Besides ``methods`` on the data as they are: ``single task`` (plain training of the main task), ``SLGrad, main task
    only`` (no auxiliaries), and plain training that uses the clean meta rows directly: ``meta rows only`` with all
    tasks and with the main task only, ``train + meta`` pooled, ``train + meta, half each``, and ``clean main labels``:
    the same without the training rows' main labels. Those keep a quarter of the meta rows apart, which choose their
    epoch and learning rate: the others choose on all of them.

    Args:
        model: makes a model that fits a data set.
        methods: name to weighting, or to several of which the meta split chooses one.
        meta_batch_sizes: rows of the meta split per step that SLGrad chooses among; the study's own when empty.
        flip: known share of flipped training labels of the main task, for two more contenders that correct
            the loss for it: ``Uniform, forward correction`` and ``single task, forward correction``.
        rivals: also compare with what the papers do not: ``GradientCosine, meta`` (an auxiliary counts by its cosine
            with the gradient of the clean rows), ``train + meta, half each, GradientCosine`` (the same, with the clean
            rows that are kept apart), and, where the main task is binary, ``single task, noise layer`` (the share of
            flipped labels is learned, from the best of several starts).
        clean: ``data`` without wrong labels, for the contenders that see none of those: over several shares of wrong
            labels they are then the same fits, which a store has to keep once. ``data`` when None.
    """
    clean = data if clean is None else clean
    alone = data.only([data.main.name])
    several = {name: [found] if isinstance(found, Weighting) else list(found) for name, found in methods.items()}
    variants = {name: (data, found) for name, found in several.items()} | {
        "single task": (alone, [Uniform()]),
        "SLGrad, main task only": (alone, [SLGrad()]),
        "meta rows only": (clean.train_on_meta(1, HOLD_OUT), [Uniform()]),
        "meta rows only, main task only": (clean.only([data.main.name]).train_on_meta(1, HOLD_OUT), [Uniform()]),
        "train + meta": (data.train_on_meta(None, HOLD_OUT), [Uniform()]),
        "train + meta, half each": (data.train_on_meta(0.5, HOLD_OUT), [Uniform()]),
        "clean main labels": (clean.without_main_labels().train_on_meta(0.5, HOLD_OUT), [Uniform()]),
    }
    if rivals:
        half, _ = variants["train + meta, half each"]
        variants["GradientCosine, meta"] = (data, [GradientCosine(on="meta")])
        variants["train + meta, half each, GradientCosine"] = (half, [GradientCosine(on="meta")])
        if data.main.kind == "binary":
            variants["single task, noise layer"] = (alone, [NoiseLayer(start) for start in STARTS])
    if flip is not None:
        corrected = {"Uniform": data, "single task": alone}
        variants |= {f"{n}, forward correction": (d.forward_corrected(flip), [Uniform()]) for n, d in corrected.items()}
    return {
        name: [
            Candidate(model(used), used, weighting, options)
            for weighting in found
            for options in _options(weighting, meta_batch_sizes, held_out=len(used.meta) < len(data.meta))
        ]
        for name, (used, found) in variants.items()
    }


HOLD_OUT = 0.25
"""Share of the clean rows that the baselines which train on them keep apart."""
STARTS = (0.2, 0.05, 0.8)
"""Where a noise layer's share of flipped labels starts: from below 1/2 it hardly ever gets above, and a start above
the share of the rarer label can end in "never", with all of its labels taken for flipped."""


def _options(weighting: Weighting, meta_batch_sizes: Sequence[int], held_out: bool) -> list[dict[str, int | None]]:
    """The options that a contender tries; one that never looks at the meta split has no say in its batches.

    Where part of the meta rows is trained on, the study's batches may be larger than what is left.
    """
    if held_out:
        return [{"meta_batch_size": None}]
    if isinstance(weighting, SLGrad) and meta_batch_sizes:
        return [{"meta_batch_size": size} for size in meta_batch_sizes]
    return [{} if weighting.uses_meta else {"meta_batch_size": None}]


@dataclass(frozen=True)
class Study:
    """The outcome of :func:`study`.

    Attributes:
        runs: contender to its runs at the variant and learning rate chosen for it.
        choices: indexed by contender: ``variant`` (number of its :class:`Candidate`), ``lr``, ``epochs`` and
            ``steps`` (the cap it was trained under), ``late`` (share of the seeds whose selected epoch lies in the
            last tenth of the cap) and ``edge`` (whether the rate is the lowest or highest that was tried).
        tuning: a row per contender, variant and learning rate: method, variant, lr, epochs, meta_loss (mean over the
            tuning seeds of the lowest main-task meta loss; infinite where a seed diverged), test_loss (at the same
            epochs; it says what another choice would have led to, and takes no part in it) and chosen.
    """

    runs: dict[str, Runs]
    choices: pd.DataFrame
    tuning: pd.DataFrame

    @property
    def lrs(self) -> dict[str, float]:
        """Contender to its learning rate."""
        return self.choices["lr"].to_dict()


def study(
    candidates: Mapping[str, Candidate | Sequence[Candidate]],
    *,
    lrs: Sequence[float],
    tuning_seeds: int | Sequence[int],
    seeds: int | Sequence[int],
    epochs: int,
    more_lrs: int = 0,
    doublings: int = 0,
    jobs: int = 2,
    store: str | Path | None = None,
    missing: str = "train",
    scheduler: str | None = None,
    label: str = "",
    **options,
) -> Study:
    """Choose each contender's learning rate on the meta split, then run it with all seeds.

    Args:
        candidates: name to contender, or to its variants, of which the meta split chooses one as well.
        lrs: the grid, the same for everyone; with one entry and one variant nothing is tuned.
        tuning_seeds: seeds of the search. No choice looks at a test split; but where every seed draws
            its own splits of the same rows, one seed's test rows are among another's meta rows.
        epochs: cap on the length of a run.
        more_lrs: the grid grows by up to this many rates (:func:`beyond`) while the choice is at its edge.
        doublings: a contender's cap is doubled up to this many times, for search and final runs, while more
            than a fifth of its seeds select an epoch in the last tenth of the cap.
        jobs: processes side by side; the results do not depend on it.
        store: file that keeps every finished run (:class:`mtlkit.store.Store`) and is looked into first.
        missing: what to do with a run that is not in the store: ``"train"`` it, ``"raise"``, or ``"skip"``: leave
            out the contenders that miss one.
        scheduler: address of a Dask scheduler, ``tcp://host:port``, whose workers train in place of ``jobs``
            processes here, one fit a worker at a time: each needs this package and one thread
            (``dask worker --nthreads 1``). A fit whose worker is lost is trained on another. Needs the extra ``dask``.
        label: of the progress lines.
        options: passed to :func:`mtlkit.training.fit`. ``steps_per_epoch`` is one pass over the first
            candidate's training split unless given, so that everyone makes the same number of steps.

    Raises:
        ValueError: an empty grid, no candidates, another ``missing``.
        LookupError: a run that is not in the store, with ``missing="raise"``.
        FailedFits: fits have failed; those beside them were trained first. Finished ones are in the store.
    """
    variants = {name: [c] if isinstance(c, Candidate) else list(c) for name, c in candidates.items()}
    if not len(lrs) or not all(variants.values()) or not variants:
        raise ValueError(f"{len(lrs)} learning rates and {len(variants)} candidates given, expected at least one each")
    first = next(iter(variants.values()))[0].data.train
    options.setdefault("steps_per_epoch", len(first) // options.get("batch_size", BATCH_SIZE))
    flat: dict[Key, Candidate] = {
        (name, v): candidate for name, found in variants.items() for v, candidate in enumerate(found)
    }
    bench: Callable[..., dict] = functools.partial(
        fits, flat, jobs=jobs, store=store, missing=missing, scheduler=scheduler, **options
    )
    runs, choices, tuning = {}, {}, []
    names, cap = list(variants), epochs
    for _ in range(doublings + 1):
        rows = []
        if len(lrs) > 1 or any(len(found) > 1 for found in variants.values()):
            keys = [(name, v) for name in names for v in range(len(variants[name]))]
            search = functools.partial(bench, label=f"{label}choosing rates", seeds=tuning_seeds, epochs=cap)
            rows = _search(search, keys, lrs, more_lrs)
            names = [name for name in names if any(row[0] == name for row in rows)]
        table = pd.DataFrame(rows, columns=["method", "variant", "lr", "meta_loss", "test_loss"])
        best = {name: table.loc[table.loc[table["method"] == name, "meta_loss"].idxmin()] for name in names if rows}
        chosen = {
            name: (int(best[name]["variant"]), float(best[name]["lr"])) if rows else (0, lrs[0]) for name in names
        }
        tuning.append(table.assign(epochs=cap, chosen=[chosen.get(m) == (v, lr) for m, v, lr, *_ in rows]))
        todo = [((name, variant), lr) for name, (variant, lr) in chosen.items()]
        done = bench(todo, label=f"{label}training", seeds=seeds, epochs=cap)
        for ((name, variant), lr), run in done.items():
            tried = table.loc[(table["method"] == name) & (table["variant"] == variant), "lr"]
            runs[name] = run
            choices[name] = {
                "variant": variant,
                "lr": lr,
                "epochs": cap,
                "steps": cap * {**options, **flat[name, variant].options}["steps_per_epoch"],
                "late": float(late(run, cap).mean()),
                "edge": len(tried) > 1 and lr in (tried.min(), tried.max()),
            }
        names = [name for (name, _), _ in done if choices[name]["late"] > LATE]
        cap *= 2
        if not names:
            break
    order = [name for name in variants if name in runs]
    chosen = pd.DataFrame.from_dict({name: choices[name] for name in order}, orient="index")
    found = pd.concat(tuning, ignore_index=True)
    found["chosen"] &= found["epochs"] == found["method"].map(chosen["epochs"] if len(chosen) else {})
    return Study({name: runs[name] for name in order}, chosen.rename_axis("method"), found)


def joined(one: Study, other: Study) -> Study:
    """Two outcomes on the same data as one."""
    frames = ([one.choices, other.choices], [one.tuning, other.tuning])
    choices, tuning = (pd.concat([part for part in parts if len(part)] or parts[:1]) for parts in frames)
    return Study(one.runs | other.runs, choices.rename_axis("method"), tuning.reset_index(drop=True))


LATE = 0.2
"""Largest share of seeds that may select an epoch in the last tenth of the cap."""


def late(runs: Runs, cap: int) -> pd.Series:
    """Per seed, whether the selected epoch lies in the last tenth of the cap."""
    return runs.selected() > 0.9 * cap


def _search(
    bench: Callable[[Sequence], dict], keys: Sequence[tuple[str, int]], lrs: Sequence[float], more_lrs: int
) -> list[tuple[str, int, float, float, float]]:
    """Try the grid, and further rates where the best is at the edge: (name, variant, rate, meta loss, test loss) each.

    Without the contenders of which a run was skipped.
    """
    found: dict[tuple[str, int], dict[float, float]] = {key: {} for key in keys}
    tested: dict[tuple[tuple[str, int], float], float] = {}
    unfinished: set[str] = set()
    todo = [(key, lr) for key in keys for lr in lrs]
    while todo:
        done = bench(todo)
        for (key, lr), run in done.items():
            found[key][lr], tested[key, lr] = (_mean_loss(run, split) for split in ("meta", "test"))
        unfinished |= {key[0] for key, lr in todo if (key, lr) not in done}
        todo = []
        for name in dict.fromkeys(name for name, _ in keys if name not in unfinished):
            own = {key: rates for key, rates in found.items() if key[0] == name}
            key = min(own, key=lambda key: min(own[key].values()))
            rates = own[key]
            best = min(rates, key=rates.__getitem__)
            for edge, up in ((max(rates), True), (min(rates), False)):
                if best == edge and len(rates) < len(lrs) + more_lrs:
                    todo.append((key, beyond(edge, up)))
    finished = {key: rates for key, rates in found.items() if key[0] not in unfinished}
    return [(*key, lr, loss, tested[key, lr]) for key, rates in finished.items() for lr, loss in sorted(rates.items())]


def beyond(lr: float, up: bool) -> float:
    """The next rate on the ladder ..., 0.003, 0.01, 0.03, 0.1, ..., above or below ``lr``.

    >>> beyond(0.03, up=True), beyond(0.03, up=False)
    (0.1, 0.01)
    """
    rung = round(2 * math.log10(lr)) + (1 if up else -1)
    return float(f"{10 ** (rung / 2):.0e}")


def fits(
    candidates: Mapping[Key, Candidate],
    todo: Sequence[tuple[Key, float]],
    label: str,
    *,
    seeds: int | Sequence[int],
    epochs: int,
    jobs: int = 2,
    store: str | Path | None = None,
    missing: str = "train",
    scheduler: str | None = None,
    **options,
) -> dict[tuple[Key, float], Runs]:
    """Fit candidates side by side, with a progress bar.

    Args:
        candidates: name to contender; a name may be a tuple that begins with what the runs are called.
        todo: name of a candidate and learning rate of each fit.
        label: of the progress bar.
        jobs, store, missing, scheduler: see :func:`study`. Only this process writes to the store.
        seeds, epochs, options: of :func:`mtlkit.training.fit`.

    Returns:
        the runs by entry of ``todo``, in its order; without those that were skipped.

    Raises:
        FailedFits: fits have failed; all others were trained first.
    """
    if missing not in WHERE_MISSING:
        raise ValueError(f"missing is {missing!r}, expected one of {', '.join(WHERE_MISSING)}")
    seeds = seed_numbers(seeds)
    kept = None if store is None else Store(store)
    settings = {} if kept is None else {(k, lr): _settings(candidates[k], lr, options) for k, lr in todo}
    units, skipped = [], set()
    for key, lr in todo:
        there = [] if kept is None else kept.seeds(settings[key, lr], epochs)
        left = [seed for seed in seeds if seed not in there]
        if left and missing != "train":
            if missing == "raise":
                raise LookupError(
                    f"{store} has no run of {_called(key)!r} with lr={lr:g} and seeds {left} for these settings, and "
                    "training is switched off"
                )
            skipped.add((key, lr))
        elif left:
            apart = kept is not None and not stacks_well(candidates[key].model, "cpu")
            units += [(key, lr, part) for part in ([[seed] for seed in left] if apart else [left])]
    calls = (
        joblib.delayed(_tried)(candidates[key], name=_called(key), lr=lr, seeds=part, epochs=epochs, **options)
        for key, lr, part in units
    )
    done: dict[tuple[Key, float], Runs] = {}
    failed: dict[int, str] = {}
    finished: set[int] = set()
    results = parallel(calls, jobs, scheduler=scheduler) if units else ()
    try:
        for _, (n, run) in zip(progress(units, label), results, strict=True):
            key, lr, _ = units[n]
            finished.add(n)
            if isinstance(run, str):
                failed[n] = _failure(units[n], candidates[key], epochs, options, run)
                print(failed[n], file=sys.stderr, flush=True)
            elif kept is None:
                done[key, lr] = run
            else:
                kept.add(settings[key, lr], epochs, run)
    except (TerminatedWorkerError, *_killed(scheduler)) as error:
        unfinished = (n for n in range(len(units)) if n not in finished)
        lost = f"not finished when a worker was lost ({type(error).__name__}: {error})\n"
        failed |= {n: _failure(units[n], candidates[units[n][0]], epochs, options, lost) for n in unfinished}
    if failed:
        raise FailedFits(list(failed.values()), done)
    if kept is not None:
        wanted = [entry for entry in todo if entry not in skipped]
        done = {(k, lr): kept.runs(settings[k, lr], epochs, seeds, _called(k)) for k, lr in wanted}
    return {entry: done[entry] for entry in todo if entry in done}


WHERE_MISSING = ("train", "raise", "skip")
Key: TypeAlias = Any
NO_SETTINGS = (*SAME_NUMBERS, "epochs", "lr")
"""Options of fit that are no part of a fit's settings: they say where and how it runs, or are looked up apart.

On a GPU rows have another order and noise is another; a store's column ``device`` says where a fit was made.
"""


def _called(key: Key) -> str:
    return key if isinstance(key, str) else key[0]


def _settings(candidate: Candidate, lr: float, options: Mapping[str, object]) -> dict[str, object]:
    """What a fit is made of, by the columns :data:`mtlkit.store.SETTINGS`."""
    model = getattr(candidate.model, "recipe", "")
    if not candidate.data.recipe or not model:
        raise ValueError(
            f"{candidate.data.name}: a store needs data from mtlkit.datasets.load and a model from mtlkit.models, "
            "which can be written down; expected store=None for others"
        )
    used = {name: v for name, v in {**options, **candidate.options}.items() if name not in NO_SETTINGS}
    if used.get("initial") is not None:
        raise ValueError("initial weights cannot be written down, so a store does not take them: expected store=None")
    line = recipes.call(fit, name="fit", **used)
    return {
        "data": candidate.data.recipe,
        "model": model,
        "weighting": recipes.of(candidate.weighting),
        "options": line.removeprefix("fit(").removesuffix(")"),
        "lr": lr,
    }


class FailedFits(RuntimeError):
    """Fits that failed, after all others were trained.

    Attributes:
        failures: what each was made of, and its traceback.
        done: the runs that are finished, where no store keeps them.
    """

    def __init__(self, failures: Sequence[str], done: Mapping[tuple[Key, float], Runs]) -> None:
        super().__init__(f"{len(failures)} fits failed, the others are finished:\n" + "\n".join(failures))
        self.failures, self.done = list(failures), dict(done)


def _failure(
    unit: tuple[Key, float, Sequence[int]], candidate: Candidate, epochs: int, options: Mapping[str, object], what: str
) -> str:
    """What a failed fit was made of, and its traceback."""
    key, lr, seeds = unit
    used = {"lr": lr, "seeds": list(seeds), "epochs": epochs} | {**options, **candidate.options}
    line = ", ".join(f"{name}={fingerprint(value)}" for name, value in used.items())
    about = f"{candidate.data.recipe or candidate.data.name}, {fingerprint(candidate.weighting)}"
    return f"{_called(key)} on {about} with {line}:\n{what}"


def _killed(scheduler: str | None) -> list[type[Exception]]:
    """What is raised when a worker of a cluster is lost again and again with the same fit."""
    if scheduler is None:
        return []
    from distributed.scheduler import KilledWorker

    return [KilledWorker]


def _tried(candidate: Candidate, **options) -> Runs | str:
    """The runs of a fit, or the traceback of its failure."""
    try:
        return _fit(candidate, **options)
    except Exception:
        return traceback.format_exc()


def _fit(candidate: Candidate, **options) -> Runs:
    """One fit on one thread, so that its sums have one order wherever it runs; what diverged is marked in its frame."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore", IncompleteRuns)
            runs = fit(candidate.model, candidate.data, candidate.weighting, **{**options, **candidate.options})
    finally:
        torch.set_num_threads(threads)
    if runs.interrupted:
        raise KeyboardInterrupt
    return measured(runs) if hasattr(candidate.model, "measures") else runs


def measured(runs: Runs) -> Runs:
    """The runs with a row per seed for each number that its model tells of itself (``measures``).

    They stand at the selected epoch, under the training split and the main task.
    """
    first = runs.frame.groupby("seed", sort=False).first()
    models: dict[int, Any] = {seed: runs.model(seed) for seed in runs.seeds}
    rows = [
        {"seed": seed, "epoch": epoch, "metric": metric, "value": value, **first.loc[seed, ["dataset", "method"]]}
        | {"split": "train", "task": runs.main, "diverged": first.loc[seed, "diverged"]}
        for seed, epoch in runs.selected().items()
        for metric, value in models[seed].measures().items()
    ]
    added = pd.DataFrame(rows)[runs.frame.columns].astype(runs.frame.dtypes)
    return replace(runs, frame=pd.concat([runs.frame, added], ignore_index=True))


def _mean_loss(runs: Runs, split: str) -> float:
    rows = runs.final("selected")
    rows = rows[(rows["split"] == split) & (rows["task"] == runs.main) & (rows["metric"] == "loss")]
    return np.inf if runs.frame["diverged"].any() else float(rows["value"].mean())


def per_seed(outcome: Study, metric: str) -> pd.DataFrame:
    """The main task's test ``metric`` at the selected epoch: a row per seed, a column per method."""
    columns = {}
    for name, runs in outcome.runs.items():
        final = runs.final("selected")
        chosen = (final["split"] == "test") & (final["task"] == runs.main) & (final["metric"] == metric)
        columns[name] = final[chosen].set_index("seed")["value"]
    return pd.DataFrame(columns)
