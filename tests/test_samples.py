from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

import mtlkit as mtl
from mtlkit.samples import audit, detection, sample_losses


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    n = 160
    x = rng.normal(size=(n, 3))
    frame = pd.DataFrame(x, columns=list("abc"))
    frame["main"] = np.where(rng.random(n) < 0.2, None, np.where(x[:, 0] > 0, "yes", "no"))
    frame["more"] = x[:, 1] + rng.normal(size=n)
    frame["kind"] = rng.choice(["u", "v", None], n)
    return mtl.datasets.from_frame(frame, "main", ["more", "kind"])


@pytest.fixture(scope="module")
def runs(data):
    options = {"epochs": 2, "batch_size": 32, "seeds": [0, 3, 4], "dtype": torch.float64, "device": "cpu"}
    return mtl.fit(mtl.models.mlp(data, hidden=(8,)), data, mtl.SLGrad(), lr=0.1, **options)


def test_the_audit_is_the_mean_over_the_seeds_that_trained_on_the_row(runs, data):
    found = mtl.audit(runs)
    assert found.detection.empty
    assert found.samples["weight"].is_monotonic_increasing
    table = found.samples.set_index(["row", "task"])
    weights = {}
    for seed, own in runs.samples.groupby("seed"):
        train = data.resample(seed).train
        own = own.set_index(["row", "task"])["weight"]
        for b, row in enumerate(train.rows.tolist()):
            for task in ("main", "more", "kind"):
                label = train.y[task][b]
                if not (torch.isnan(label) if label.is_floating_point() else label == -1):
                    weights.setdefault((row, task), []).append(own[row, task])
    assert set(weights) == set(table.index)
    for key, values in weights.items():
        line = table.loc[key]
        assert line["seeds"] == len(values)
        assert line["weight"] == pytest.approx(np.mean(values))
        if len(values) > 1:
            half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
            assert line["low"] == pytest.approx(np.mean(values) - half)
            assert line["high"] == pytest.approx(np.mean(values) + half)
        else:
            assert np.isnan(line["low"])
    assert (table["seeds"] == 1).any()
    assert (table["seeds"] == 3).any()


def test_missing_labels_have_no_weight_to_audit(runs, data):
    train = data.resample(3).train
    own = runs.samples[(runs.samples["seed"] == 3) & (runs.samples["task"] == "main")].set_index("row")["weight"]
    missing = train.rows[torch.isnan(train.y["main"])].tolist()
    assert len(missing) > 5
    assert own[missing].isna().all()
    assert own.drop(missing).notna().all()


def test_losses_are_those_of_the_trained_models(runs, data):
    model = mtl.models.mlp(data, hidden=(8,)).double()
    table = sample_losses(runs, data).set_index(["seed", "row", "task"])["loss"]
    for seed in runs.seeds:
        model.load_state_dict(runs.state_dict(seed))
        train = data.resample(seed).train
        for b in range(0, len(train), 7):
            output = model(train.x[b : b + 1])
            row = int(train.rows[b])
            wanted = (output["more"][0, 0] - train.y["more"][b]).square().item()
            assert table[seed, row, "more"] == pytest.approx(wanted)
            label = train.y["main"][b]
            if torch.isnan(label):
                assert np.isnan(table[seed, row, "main"])
            else:
                p = torch.sigmoid(output["main"][0, 0]).item()
                assert table[seed, row, "main"] == pytest.approx(-np.log(p if label == 1 else 1 - p))
    frame = runs.frame[(runs.frame.split == "train") & (runs.frame.metric == "loss")]
    frame = frame[frame["epoch"] == frame["seed"].map(runs.selected())]
    for (seed, task), value in frame.set_index(["seed", "task"])["value"].items():
        assert table[seed, :, task].mean() == pytest.approx(value)


def test_losses_of_runs_with_other_rows_and_fewer_tasks(data):
    alone = data.only(["main"])
    clean = alone.train_on_meta(1)
    model = mtl.models.mlp(alone, hidden=(8,))
    runs = mtl.fit(model, clean, mtl.Uniform(), epochs=1, batch_size=16, seeds=2, device="cpu")
    table = sample_losses(runs, data)
    assert set(table["task"]) == {"main"}
    assert table[table["seed"] == 1]["row"].tolist() == data.resample(1).train.rows.tolist()
    with pytest.raises(ValueError, match="has none of the tasks main of the runs"):
        sample_losses(runs, data.only(["more"]))


def test_dropout_takes_no_part_in_the_loss_of_a_sample(data):
    trunk = torch.nn.Sequential(torch.nn.Linear(data.train.x.shape[1], 8), torch.nn.Dropout(0.5))
    model = mtl.models.MultiTaskModel(trunk, {task.name: torch.nn.Linear(8, 1) for task in data.tasks})
    runs = mtl.fit(model, data, mtl.Uniform(), epochs=1, batch_size=16, seeds=1, device="cpu")
    one, other = sample_losses(runs, data), sample_losses(runs, data)
    assert one["loss"].equals(other["loss"])


def test_labels_that_move_are_weighed_where_they_are(data):
    """Every other row has a label of the auxiliary in odd epochs, its neighbours in even ones."""

    def train_at(epoch):
        y = data.train.y["more"].clone()
        y[epoch % 2 :: 2] = torch.nan
        return replace(data.train, y={**data.train.y, "more": y})

    moving = replace(data, train=train_at(0), train_at=train_at, redraw=None)
    runs = mtl.fit(mtl.models.mlp(moving), moving, mtl.Uniform(), epochs=2, batch_size=16, seeds=1, device="cpu")
    weights = runs.samples[runs.samples["task"] == "more"]["weight"].dropna()
    assert len(weights) > 0.6 * len(data.train)
    assert (weights > 0).all()


SCORES = pd.DataFrame(
    {
        "seed": [0] * 5 + [1] * 5 + [2] * 5,
        "task": "main",
        "noisy": [True, True, False, False, False] * 2 + [False] * 5,
        "weight": [0.0, 2.0, 1.0, 3.0, 4.0] + [0.0, 0.0, 0.0, 1.0, 1.0] + [1.0] * 5,
    }
)


def test_detection_against_counting_by_hand():
    found = detection(SCORES, "weight").set_index("seed")
    assert found.index.tolist() == [0, 1]
    assert found["flipped"].tolist() == [2, 2]
    assert found["labels"].tolist() == [5, 5]
    assert found["precision"].tolist() == pytest.approx([1 / 2, 2 / 3])
    assert found["roc_auc"].tolist() == pytest.approx([5 / 6, (4 + 2 * 0.5) / 6])
    other = detection(SCORES.assign(weight=-SCORES["weight"]), "weight", suspect_high=True)
    assert other["roc_auc"].tolist() == found["roc_auc"].tolist()
    assert other["precision"].tolist() == found["precision"].tolist()


def test_detection_of_a_score_that_knows_and_of_one_that_does_not():
    assert (detection(SCORES.assign(weight=~SCORES["noisy"]), "weight")[["precision", "roc_auc"]] == 1).all(axis=None)
    assert (detection(SCORES.assign(weight=1.0), "weight")["roc_auc"] == 0.5).all()
    assert (detection(SCORES.assign(weight=1.0), "weight")["precision"] == 0.4).all()


def test_the_audit_reports_detection_per_seed_and_task():
    data = mtl.datasets.load("digits", label_noise=0.6)
    options = {"epochs": 3, "batch_size": 64, "meta_batch_size": 200, "optimizer": torch.optim.Adam, "device": "cpu"}
    runs = mtl.fit(mtl.models.mlp(data, hidden=(32,)), data, mtl.SLGrad(), lr=0.01, seeds=2, **options)
    found = audit(runs).detection
    assert found[["task", "seed", "flipped", "labels"]].values.tolist() == [
        ["is_8", 0, 600, 1000],
        ["is_8", 1, 600, 1000],
    ]
    assert (found["roc_auc"] > 0.8).all()
    assert (found["precision"] > 0.8).all()
    uniform = replace(runs, samples=runs.samples.assign(weight=1.0))
    assert audit(uniform).detection["roc_auc"].tolist() == [0.5, 0.5]
