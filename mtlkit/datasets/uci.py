"""Two tables of the UCI repository: Adult and Parkinsons telemonitoring."""

from __future__ import annotations

import functools
import io
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from mtlkit.datasets import files
from mtlkit.datasets.base import Dataset, check_share, check_sizes, main_first
from mtlkit.datasets.mnist import own_block
from mtlkit.datasets.noise import with_flipped_labels
from mtlkit.datasets.tabular import Table, group_numbers, grouped_rows

_ADULT_WORDS = {
    "workclass": 8, "occupation": 14, "relationship": 6, "race": 5, "sex": 2, "native-country": 41,
}  # fmt: skip
_ADULT_ROWS = {"adult/adult.data": 32_561, "adult/adult.test": 16_281}
_ADULT = [
    "age", "workclass", "fnlwgt", "education", "education-num", "marital-status", "occupation", "relationship",
    "race", "sex", "capital-gain", "capital-loss", "hours-per-week", "native-country", "income",
]  # fmt: skip
_PARKINSONS = "parkinsons-telemonitoring/parkinsons_updrs.data"


def adult(
    *,
    main: str = "income",
    label_noise: float = 0.0,
    noise: str = "flip",
    n_train: int | None = None,
    n_meta: int = 2000,
    seed: int = 0,
) -> Dataset:
    """UCI Adult, three binary tasks: ``income`` (over 50K), ``never_married``, ``education`` (some college or more).

    The columns that say so (marital status and both education columns) are no inputs; note that ``relationship``, which
    stays, still tells most of the marital status. Missing entries ("?") have code 0, see
    :func:`mtlkit.datasets.from_frame`. Training and meta rows come from the 32,561 published training rows; the test
    split is the 16,281 published test rows, numbered from 32,561 on. Inputs are standardised by the training split,
    those of the test split too. The files hold some identical rows, which are kept.

    Args:
        main: the main task.
        label_noise: share of the main task's training labels that is made wrong, exactly ``round(share * n_train)``.
        noise: see :func:`mtlkit.datasets.noise.flip_labels`.
        n_train: None: each seed draws its meta split from the training rows and trains on all
            others, so that seeds share most rows. A number: no two seeds share a training or meta row.
            One fixed permutation of the training rows is cut into blocks of ``n_train + n_meta``, and
            seed s has the s-th block, its first ``n_train`` rows for training.

    Raises:
        ValueError: a share outside [0, 1], an unknown task or ``noise``, an empty split, a seed for which
            no rows are left, a damaged file.
        FileNotFoundError: a file that is not there and could not be downloaded.
    """
    check_share("label_noise", label_noise)
    order = main_first(("income", "never_married", "education"), main)
    table, n_published = _adult(*(files.fetch(name) for name in files.needed("adult")))
    generator = torch.Generator().manual_seed(seed)
    if n_train is None:
        check_sizes(n_published - 1, n_meta=n_meta)
        drawn = torch.randperm(n_published, generator=generator)
        n_train = n_published - n_meta
    else:
        check_sizes(n_published, n_train=n_train, n_meta=n_meta)
        permutation = torch.randperm(n_published, generator=torch.Generator().manual_seed(0))
        drawn = own_block(permutation, n_train + n_meta, seed)
    data = table.dataset("adult", drawn[:n_train], drawn[n_train:], torch.arange(n_published, table.rows)).only(order)
    return replace(
        data,
        train=with_flipped_labels(data.train, label_noise, noise, generator),
        source="UCI Adult (Becker and Kohavi 1996)",
        licence="CC BY 4.0",
    )


def parkinsons(
    *,
    main: str = "motor_UPDRS",
    meta_subjects: int = 8,
    test_subjects: int = 10,
    seed: int = 0,
) -> Dataset:
    """UCI Parkinsons telemonitoring: regress ``motor_UPDRS`` and ``total_UPDRS`` on 19 inputs.

    Inputs are age, sex, time since recruitment and 16 voice measures. No subject is in two splits: each seed draws
    ``test_subjects`` and ``meta_subjects`` of the 42 and trains on the others. Split sizes are the same for every seed,
    see :func:`mtlkit.datasets.from_frame`. Inputs and targets are standardised by the training split.

    Args:
        main: the main task.

    Raises:
        ValueError: an unknown task, an empty split, a damaged file.
        FileNotFoundError: a file that is not there and could not be downloaded.
    """
    order = main_first(("motor_UPDRS", "total_UPDRS"), main)
    table, subjects = _parkinsons(files.fetch(_PARKINSONS))
    check_sizes(int(subjects.max()), meta_subjects=meta_subjects, test_subjects=test_subjects)
    rows = grouped_rows(subjects, meta_subjects, test_subjects, torch.Generator().manual_seed(seed))
    return replace(
        table.dataset("parkinsons", *rows).only(order),
        source="UCI Parkinsons Telemonitoring (Tsanas and Little 2009)",
        licence="CC BY 4.0",
    )


@functools.lru_cache(maxsize=1)
def _adult(train: Path, test: Path) -> tuple[Table, int]:
    """The table of both files, one after the other, and the number of training rows."""
    parts = [_adult_rows(name, path) for name, path in zip(files.needed("adult"), (train, test), strict=True)]
    frame = pd.concat(parts, ignore_index=True)
    targets = {
        "income": frame["income"].str.startswith(">50K"),
        "never_married": frame["marital-status"] == "Never-married",
        "education": frame["education-num"] >= 10,
    }
    inputs = frame.drop(columns=["income", "marital-status", "education", "education-num"])
    table = Table.of(inputs, targets, {})
    names = {"income": ("<=50K", ">50K"), "never_married": ("other", "never married")}
    return replace(table, classes={**names, "education": ("no college", "some college or more")}), len(parts[0])


def _adult_rows(name: str, path: Path) -> pd.DataFrame:
    if path == files.BLANK:
        number = pd.Series(range(_ADULT_ROWS[name]))
        words = {column: "c" + (number % n).astype(str) for column, n in _ADULT_WORDS.items()}
        labels = {"income": (number % 2).map({0: "<=50K", 1: ">50K"}), "education-num": 10 * (number % 2)}
        labels["marital-status"] = (number % 2).map({0: "Divorced", 1: "Never-married"})
        return pd.DataFrame({column: number for column in _ADULT}).assign(**words, **labels)
    source = io.BytesIO(files.checked_bytes(name, path))
    return pd.read_csv(source, names=_ADULT, skipinitialspace=True, na_values="?", comment="|", skip_blank_lines=True)


@functools.lru_cache(maxsize=1)
def _parkinsons(path: Path) -> tuple[Table, Tensor]:
    """The table and the subject (from 0) of each row."""
    frame = pd.read_csv(io.BytesIO(files.checked_bytes(_PARKINSONS, path)))
    names = ("motor_UPDRS", "total_UPDRS")
    inputs = frame.drop(columns=["subject#", *names])
    return Table.of(inputs, {name: frame[name] for name in names}, {}), group_numbers(frame["subject#"])
