import numpy as np
import pytest
import torch
from companion import dynamics

import mtlkit as mtl
from mtlkit.datasets.drift import with_drift
from mtlkit.studies import Candidate

OPTIONS = {
    "epochs": 3,
    "steps_per_epoch": 4,
    "batch_size": 40,
    "meta_batch_size": 30,
    "lr": 0.05,
    "seeds": [1, 2],
    "dtype": torch.float64,
    "device": "cpu",
}


@pytest.fixture(scope="module")
def candidate():
    data = with_drift(mtl.datasets.load("digits", main=8), after=1)
    return Candidate(mtl.models.mlp(data, hidden=(16,)), data, mtl.HydaLearn())


@pytest.fixture(scope="module")
def runs(candidate):
    return mtl.fit(candidate.model, candidate.data, candidate.weighting, **OPTIONS)


def weights(runs, seed):
    rows = runs.frame[(runs.frame.metric == "weight") & (runs.frame.seed == seed)]
    return rows.pivot(index="epoch", columns="task", values="value")


def test_shares_are_what_the_main_task_does_not_get(runs):
    found = dynamics.auxiliary_shares(runs)
    assert found.shape == (2, 3)
    assert found.loc[2].tolist() == pytest.approx(weights(runs, 2).drop(columns="is_8").sum(axis=1).tolist())


def test_a_diverged_seed_has_no_shares(runs):
    broken = mtl.Runs(runs.frame.assign(diverged=runs.frame["seed"] == 2), runs.samples, runs.main, {})
    found = dynamics.auxiliary_shares(broken)
    assert found.loc[1].notna().all()
    assert found.loc[2].isna().all()


def test_before_and_after_are_means_over_as_many_epochs_on_both_sides(runs):
    shares = dynamics.auxiliary_shares(runs)
    table = dynamics.around_drift({"digits": [runs]}, after=1)
    assert table.columns.tolist() == ["condition", "method", "seed", "metric", "value"]
    found = table.set_index(["metric", "seed"])["value"]
    assert found["auxiliary_share_before", 1] == shares.loc[1, 1]
    assert found["auxiliary_share_after", 1] == shares.loc[1, 2]
    late = dynamics.around_drift({"digits": [runs]}, after=2).set_index(["metric", "seed"])["value"]
    assert late["auxiliary_share_before", 2] == shares.loc[2, 2]
    assert late["auxiliary_share_after", 2] == shares.loc[2, 3]


def test_variation_within_epochs_leaves_the_epochs_means_out():
    data = mtl.datasets.load("digits", main=8)
    model = mtl.models.mlp(data, hidden=(16,))
    by_step = mtl.fit(model, data, mtl.HydaLearn(), **{**OPTIONS, "epochs": 8, "steps_per_epoch": 1})
    steps = weights(by_step, 1)["is_8"].to_numpy().reshape(2, 4)
    runs = mtl.fit(model, data, mtl.HydaLearn(), **{**OPTIONS, "epochs": 2})
    assert weights(runs, 1)["is_8"].to_numpy() == pytest.approx(steps.mean(1))
    frame = runs.frame
    spread = frame[(frame.metric == "weight_sd") & (frame.task == "is_8") & (frame.seed == 1)]["value"].to_numpy()
    assert spread == pytest.approx(steps.std(1))
    assert spread.min() > 0.01
    found = dynamics.variation(runs)
    assert found.loc[1, "within_epoch_sd"] == pytest.approx(np.sqrt((spread**2).mean()))
    assert found.loc[1, "between_epoch_sd"] == pytest.approx(steps.mean(1).std(ddof=1))
    fixed = mtl.fit(model, data, mtl.Uniform(), **OPTIONS)
    assert dynamics.variation(fixed).to_numpy() == pytest.approx(0, abs=1e-9)


def test_a_schedule_replays_its_weights_epoch_by_epoch(runs, candidate):
    schedule = dynamics.schedule_of(runs)
    mean = (weights(runs, 1) + weights(runs, 2)) / 2
    assert np.array(schedule.weights) == pytest.approx(mean[[t.name for t in candidate.data.tasks]].to_numpy())
    again = mtl.fit(candidate.model, candidate.data, schedule, **{**OPTIONS, "epochs": 4})
    for seed in (1, 2):
        replayed = weights(again, seed)[mean.columns]
        assert replayed.to_numpy()[:3] == pytest.approx(mean.to_numpy(), abs=1e-10)
        assert replayed.to_numpy()[3] == pytest.approx(mean.to_numpy()[2], abs=1e-10)


def test_a_constant_schedule_is_the_fixed_weighting(candidate):
    row = [0.3, *[0.7 / 9] * 9]
    one, other = (
        mtl.fit(candidate.model, candidate.data, w, name="x", **OPTIONS).frame["value"]
        for w in (dynamics.Schedule([row]), mtl.Fixed(row))
    )
    assert one.tolist() == pytest.approx(other.tolist(), nan_ok=True)


def test_a_schedule_for_other_tasks_is_refused(candidate):
    for rows in ([], [[0.5, 0.5]]):
        with pytest.raises(ValueError, match="expected at least one row of 10"):
            mtl.fit(candidate.model, candidate.data, dynamics.Schedule(rows), **OPTIONS)
