import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

import mtlkit as mtl
from mtlkit.results import Runs


def runs(method, losses, *, dataset="d", diverged=()):
    """Runs with given main-task losses: seed -> [(meta, test) of epoch 0, 1, ...]."""
    rows = [
        (dataset, method, seed, epoch, split, "main", "loss", value, seed in diverged)
        for seed, curve in losses.items()
        for epoch, pair in enumerate(curve)
        for split, value in zip(("meta", "test"), pair, strict=True)
    ]
    columns = ["dataset", "method", "seed", "epoch", "split", "task", "metric", "value", "diverged"]
    return Runs(
        pd.DataFrame(rows, columns=columns), pd.DataFrame(), "main", {"selected": {"w": torch.arange(len(losses))}}
    )


A = runs("a", {0: [(3, 30), (1, 10), (2, 20)], 5: [(1, 12), (2, 22), (0.5, 6)]})


def test_the_epoch_is_selected_on_the_meta_split_never_on_test():
    assert A.selected().to_dict() == {0: 1, 5: 2}
    rows = A.final("selected")
    assert rows[rows["split"] == "test"]["value"].tolist() == [10, 6]
    rows = A.final("last")
    assert rows[rows["split"] == "test"]["value"].tolist() == [20, 6]


def test_summary_is_the_t_interval():
    found = A.summary("last").loc["a", "main", "loss"]
    low, high = stats.t.interval(0.95, 1, loc=13, scale=stats.sem([20, 6]))
    assert found.to_dict() == pytest.approx({"mean": 13, "low": low, "high": high, "seeds": 2, "missing": 0})


def test_compare_is_the_paired_t_test():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 8))
    first, second = (runs(n, {s: [(1, v)] for s, v in enumerate(values)}) for n, values in (("x", x), ("y", y)))
    found = mtl.compare([first, second]).loc["y"]
    expected = stats.ttest_rel(y, x)
    low, high = expected.confidence_interval()
    assert found.to_dict() == pytest.approx(
        {"difference": (y - x).mean(), "low": low, "high": high, "p": expected.pvalue, "seeds": 8}
    )
    shared = mtl.compare([first, second], overlap=0.5).loc["y"]
    assert shared["high"] - shared["low"] == pytest.approx((high - low) * np.sqrt(1 + 8 * 0.5))
    assert shared["p"] > found["p"]


@pytest.mark.parametrize("at", ["selected", "last"])
@pytest.mark.parametrize("end", [np.nan, np.inf, 3.0])
def test_a_diverged_seed_counts_as_missing_at_either_epoch(at, end):
    first = runs("x", {0: [(1, 1)], 1: [(1, 2)], 2: [(1, 4)]})
    second = runs("y", {0: [(1, 2)], 1: [(1, end)], 2: [(1, 6)]}, diverged=(1,))
    found = mtl.compare([first, second], at=at).loc["y"]
    assert found["seeds"] == 2
    assert found["difference"] == 1.5
    assert second.summary(at).loc["y", "main", "loss"][["seeds", "missing"]].tolist() == [2, 1]


def test_compare_leaves_out_pairs_that_are_not_finite():
    first = runs("x", {0: [(1, 1)], 1: [(1, 2)], 2: [(1, 4)]})
    second = runs("y", {0: [(1, 2)], 1: [(1, np.inf)], 2: [(1, 6)]})
    found = mtl.compare([first, second]).loc["y"]
    assert found["seeds"] == 2
    assert np.isfinite(found["p"])


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        ([A], {}, "at least two"),
        ([A, A], {}, "two runs are called 'a'"),
        ([A, runs("b", {0: [(1, 1)]})], {}, "different seeds"),
        ([A, runs("b", {0: [(1, 1)], 5: [(1, 1)]}, dataset="e")], {}, "different data sets: d, e"),
        ([A, A], {"metric": "auc"}, r"a: no 'auc' of task 'main' on 'test', found \[\('main', 'loss'\)\]"),
        ([A, A], {"task": "other"}, "no 'loss' of task 'other'"),
        ([A, A], {"at": "best"}, "at is 'best', expected one of selected, last"),
    ],
)
def test_what_cannot_be_compared_is_refused(given, options, message):
    with pytest.raises(ValueError, match=message):
        mtl.compare(given, **options)


def test_state_dict_knows_its_seeds():
    assert A.state_dict(5)["w"] == 1
    with pytest.raises(ValueError, match=r"no run with seed 1, expected one of \[0, 5\]"):
        A.state_dict(1)


def test_frame_and_samples_of_a_real_run_add_up():
    data = mtl.datasets.load("digits", label_noise=0.6)
    done = mtl.fit(mtl.models.mlp(data), data, mtl.SLGrad(), epochs=2, batch_size=100, seeds=2, dtype=torch.float64)
    frame = done.frame
    assert list(frame.columns) == [
        "dataset", "method", "seed", "epoch", "split", "task", "metric", "value", "diverged",
    ]  # fmt: skip
    assert frame["dataset"].unique().tolist() == ["digits"]
    assert done.method == "SLGrad"
    assert done.seeds == [0, 1]
    curve = frame[(frame.metric == "loss") & (frame.split == "test") & (frame.task == "is_8")]
    assert curve["epoch"].tolist() == [0, 1, 2, 0, 1, 2]
    shares = frame[frame.metric == "weight"].groupby(["seed", "epoch"])["value"].sum()
    assert shares.to_numpy() == pytest.approx(1)
    main = done.samples[(done.samples.task == "is_8") & (done.samples.seed == 1)]
    truth = data.resample(1).train
    assert main["row"].tolist() == truth.rows.tolist()
    assert main["noisy"].tolist() == truth.noisy[:, 0].tolist()
    total = done.samples[done.samples.seed == 1]["weight"].mean()
    assert total == pytest.approx(1, abs=1e-9)
    noisy = frame[(frame.metric == "noisy_weight") & (frame.seed == 1)]
    assert noisy["task"].unique().tolist() == ["is_8"]
    over_all = main.loc[main.noisy, "weight"].sum() / main["weight"].sum()
    assert noisy["value"].min() - 1e-9 <= over_all <= noisy["value"].max() + 1e-9


def test_of_rounded_losses_that_tie_the_epoch_with_metrics_is_selected():
    made = runs("a", {0: [(meta, 1.0) for meta in (0.5, 0.2, 0.2, 0.2, 0.4)]})
    assert made.selected().to_dict() == {0: 1}
    known = made.frame.query("epoch == 3 and split == 'test'").assign(metric="accuracy")
    found = Runs(pd.concat([made.frame, known]), pd.DataFrame(), "main", {})
    assert found.selected().to_dict() == {0: 3}
