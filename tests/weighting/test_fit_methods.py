"""Every weighting trains: ``mtl.fit`` on the digits, two seeds and two short epochs."""

import pytest
import torch
from methods import METHODS

import mtlkit as mtl


@pytest.fixture(scope="module")
def digits():
    return mtl.datasets.load("digits", main=8, seed=0)


def error(output, target):
    """Share of wrong predictions on the meta batch, which is the whole meta split here."""
    assert output.shape == (200, 1)
    return ((output.squeeze(1) > 0) != (target > 0)).double().mean()


OTHERWISE = {
    "HydaLearn, metric": mtl.HydaLearn(metric=error, step=5.0),
    "NoiseLayer": mtl.NoiseLayer(flip=0.02),  # the labels are clean
    "NoiseLayer, auxiliaries": mtl.NoiseLayer(flip=0.02, auxiliaries=True),
    "OrthogonalGradients": mtl.OrthogonalGradients(strength=0.01),  # ten tasks have 45 pairs
}


@pytest.mark.parametrize("name", METHODS)
def test_fit(name, digits):
    weighting = OTHERWISE.get(name) or METHODS[name](10)
    model = mtl.models.mlp(digits, hidden=(16,))
    before = torch.get_rng_state()
    runs = mtl.fit(model, digits, weighting, epochs=2, steps_per_epoch=3, seeds=2)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(value.isfinite().all() for value in runs.states["last"].values())
    curve = runs.frame.query("split == 'meta' and metric == 'loss' and task == 'is_8'").groupby("epoch")["value"].mean()
    assert list(curve.index) == [0, 1, 2]
    assert curve[2] < curve[1] < curve[0]


@pytest.fixture(scope="module")
def texts():
    """Five tasks; every row has a label of one of them."""
    return mtl.datasets.load("toy_language", n_train=24, n_meta=10, n_test=8, n_tokens=16)


MERGING = {"AlphaVIL": mtl.AlphaVIL(), "DIW": mtl.DIW(), "ForkMerge": mtl.ForkMerge()}


@pytest.mark.parametrize("name", [*(name for name in METHODS if name != "HydaLearn, metric"), *MERGING])
def test_fit_where_every_row_has_one_label(name, texts):
    labels = sum(mtl.tasks.labelled(y).long() for y in texts.train.y.values())
    assert labels.eq(1).all()
    weighting = MERGING.get(name) or METHODS[name](5)
    model = mtl.models.text_encoder(texts, width=4)
    options = {"batch_size": 12, "steps_per_epoch": 3, "dtype": torch.float64}
    runs = mtl.fit(model, texts, weighting, epochs=1, seeds=1, **options)
    assert all(value.isfinite().all() for value in runs.states["last"].values())
    losses = runs.frame.query("split == 'train' and metric == 'loss'").pivot(index="epoch", columns="task")["value"]
    assert losses.notna().all(axis=None)
    assert losses.loc[0, runs.main] != losses.loc[1, runs.main]
