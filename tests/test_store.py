import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torchjd import aggregation

import mtlkit as mtl
from mtlkit import recipes
from mtlkit.store import SETTINGS, Store, provenance


def settings(**changes):
    return {"data": "d", "model": "m", "weighting": "w", "options": "select_from=2", "lr": 0.1, **changes}


def runs(ends, name="a"):
    """Runs of seeds with these last epochs."""
    rows = [
        ("d", name, seed, epoch, split, "main", "loss", 1 / (1 + epoch) + seed, False)
        for seed, end in ends.items()
        for epoch in range(end + 1)
        for split in ("train", "meta", "test")
    ]
    columns = ["dataset", "method", "seed", "epoch", "split", "task", "metric", "value", "diverged"]
    return mtl.Runs(pd.DataFrame(rows, columns=columns), pd.DataFrame(), "main", {}, 2)


def test_what_is_written_is_read_by_a_new_store(tmp_path):
    path = tmp_path / "new" / "runs.parquet"
    Store(path).add(settings(), 4, runs({0: 4, 3: 4}))
    found = Store(path).runs(settings(), 4, [3, 0], "b")
    assert found.method == "b"
    assert found.seeds == [3, 0]
    assert found.main == "main"
    assert found.selected().to_dict() == {3: 4, 0: 4}
    assert found.select_from == 2
    given = runs({3: 4, 0: 4}).frame
    given = given[(given["split"] != "train") | given["epoch"].isin([0, 4])]
    assert found.frame["value"].tolist() == pytest.approx(given["value"].tolist(), rel=5e-6)
    made = pd.read_parquet(path)
    assert made["commit"].nunique() == 1
    assert "torch" in made["versions"].iloc[0]


def test_of_the_training_loss_the_ends_and_the_selected_epoch_are_kept_and_of_other_tasks_the_weights(tmp_path):
    run = runs({0: 4, 1: 5})
    late = run.frame["epoch"] > run.frame["seed"].map({0: 2, 1: 3})
    frame = run.frame.assign(value=run.frame["value"] + late)
    weights = frame[frame["split"] == "train"].assign(metric="weight")
    more = [weights, weights.assign(metric="weight_sd"), weights.assign(task="b"), frame.assign(task="b")]
    more.append(weights.assign(task="b", metric="weight_sd"))
    store = Store(tmp_path / "runs.parquet")
    store.add(settings(), 5, dataclasses.replace(run, frame=pd.concat([frame, *more], ignore_index=True)))
    found = store.runs(settings(), 5, [0, 1], "a").frame
    losses = found[(found["split"] == "train") & (found["metric"] == "loss")]
    assert losses[["seed", "epoch"]].to_numpy().tolist() == [[0, 0], [0, 2], [0, 4], [1, 0], [1, 3], [1, 5]]
    assert found.groupby(["task", "metric"]).size().to_dict() == {
        ("b", "weight"): 11,
        ("main", "loss"): 2 * 11 + 6,
        ("main", "weight"): 11,
        ("main", "weight_sd"): 11,
    }


@pytest.mark.parametrize(
    "change", [{name: "other" for name in [name]} for name in SETTINGS if name != "lr"] + [{"lr": 0.2}]
)
def test_other_settings_are_another_fit(tmp_path, change):
    store = Store(tmp_path / "runs.parquet")
    store.add(settings(), 4, runs({0: 4}))
    assert store.seeds(settings(), 4) == [0]
    assert store.seeds(settings(**change), 4) == []


def test_a_seed_that_stopped_by_itself_counts_under_any_cap_that_it_did_not_reach(tmp_path):
    store = Store(tmp_path / "runs.parquet")
    store.add(settings(), 6, runs({0: 4, 1: 6}))
    assert store.seeds(settings(), 6) == [0, 1]
    assert store.seeds(settings(), 12) == [0]
    assert store.seeds(settings(), 4) == [0]
    assert store.seeds(settings(), 3) == []
    store.add(settings(), 12, runs({1: 9}))
    assert store.seeds(settings(), 12) == [0, 1]
    assert store.runs(settings(), 6, [1], "a").frame["epoch"].max() == 6
    assert store.runs(settings(), 12, [1], "a").frame["epoch"].max() == 9


def test_the_file_does_not_depend_on_the_order_of_the_fits(tmp_path):
    one, other = (Store(tmp_path / name) for name in ("one", "other"))
    parts = [(settings(lr=lr), runs({seed: 4})) for lr in (0.1, 0.2) for seed in (0, 1)]
    for s, r in parts:
        one.add(s, 4, r)
    for s, r in reversed(parts):
        other.add(s, 4, r)
    assert one.path.read_bytes() == other.path.read_bytes()


def test_two_stores_of_one_file_lose_nothing(tmp_path):
    one, other = Store(tmp_path / "runs.parquet"), Store(tmp_path / "runs.parquet")
    one.add(settings(), 4, runs({0: 4}))
    other.add(settings(), 4, runs({1: 4}))
    assert Store(tmp_path / "runs.parquet").seeds(settings(), 4) == [0, 1]


def test_what_another_process_has_written_meanwhile_is_not_written_twice(tmp_path):
    one, other = Store(tmp_path / "runs.parquet"), Store(tmp_path / "runs.parquet")
    one.add(settings(), 4, runs({0: 4, 1: 4}))
    other.add(settings(), 4, runs({1: 3, 2: 4}))
    other.add(settings(lr=0.2), 4, runs({1: 4}))
    found = Store(tmp_path / "runs.parquet")
    assert found.runs(settings(), 4, [0, 1, 2], "a").frame.groupby("seed")["epoch"].max().tolist() == [4, 4, 4]
    assert not found.table.duplicated([*SETTINGS, "epochs", "seed", "epoch", "split"]).any()
    assert found.seeds(settings(lr=0.2), 4) == [1]


def test_a_file_that_is_replaced_while_it_is_read_is_not_damaged(tmp_path):
    path, contents = tmp_path / "runs.parquet", []
    for end in (4, 400):
        path.unlink(missing_ok=True)
        Store(path).add(settings(), end, runs({0: end}))
        contents.append(path.read_bytes())
    done = threading.Event()

    def replaced():
        while not done.is_set():
            for content in contents:
                (tmp_path / "part").write_bytes(content)
                os.replace(tmp_path / "part", path)

    writer = threading.Thread(target=replaced)
    writer.start()
    try:
        for _ in range(150):
            assert Store(path).table["epochs"].iloc[0] in (4, 400)
    finally:
        done.set()
        writer.join()


def test_a_damaged_file_and_one_of_another_version_are_refused_and_left_alone(tmp_path):
    path = tmp_path / "runs.parquet"
    Store(path).add(settings(), 4, runs({0: 4}))
    path.write_bytes(path.read_bytes()[:-100])
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"runs.parquet is damaged .* restore it, for instance with git checkout"):
        Store(path)
    assert path.read_bytes() == before
    pq.write_table(pa.table({"a": [1]}).replace_schema_metadata({"mtlkit store": "0"}), path)
    with pytest.raises(ValueError, match="is a store of version 0, expected 1"):
        Store(path)


ENDLESS = """
import sys; sys.path.insert(0, {tests!r})
from test_store import Store, runs, settings
store = Store({path!r})
for seed in range(max(store.seeds(settings(), 4), default=-1) + 1, 10**6):
    store.add(settings(), 4, runs({{seed: 4}}))
    print(seed, flush=True)
"""


def test_a_killed_writer_leaves_every_finished_fit_and_no_broken_file(tmp_path):
    path = tmp_path / "runs.parquet"
    code = ENDLESS.format(tests=os.path.dirname(__file__), path=str(path))
    said = []
    for pause in (0.0, 0.05, 0.11):
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
            said.append(int(process.stdout.readline()))
            time.sleep(pause)
            process.send_signal(signal.SIGKILL)
            said += [int(line) for line in process.stdout]
        assert set(said) <= set(Store(path).seeds(settings(), 4))
    assert len(said) == len(set(said)) >= 3


def test_a_run_is_dirty_if_code_has_changed_but_not_if_its_store_has(tmp_path, monkeypatch):
    def git(*arguments):
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments], cwd=tmp_path, check=True)

    (tmp_path / "data/results").mkdir(parents=True)
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    assert provenance()["commit"] == "unknown"
    for name in ("code.py", "data/results/runs.parquet"):
        (tmp_path / name).write_text("before")
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "-m", "first")
    clean = provenance()["commit"]
    (tmp_path / "data/results/runs.parquet").write_text("after")
    assert provenance()["commit"] == clean
    (tmp_path / "code.py").write_text("after")
    assert provenance()["commit"] == f"{clean}-dirty"


RECIPES = [
    mtl.SLGrad(lookahead=0.1),
    mtl.HydaLearn(on="batch"),
    mtl.Fixed([0.5, 0.25, 0.25]),
    mtl.AlphaVIL(rho=0.5),
]


@pytest.mark.parametrize("weighting", RECIPES, ids=recipes.of)
def test_a_recipe_makes_the_same_again(weighting):
    made = recipes.make(recipes.of(weighting), vars(mtl))
    assert made == weighting


def test_equal_values_have_one_recipe_and_other_values_another():
    assert recipes.of(mtl.OLAux(every=np.int64(3))) == recipes.of(mtl.OLAux(every=3)) == "OLAux(every=3)"
    assert recipes.of(mtl.Fixed(np.array([1.0, 0.0]))) == recipes.of(mtl.Fixed([1.0, 0.0]))
    by_number = [mtl.datasets.load("digits", main=m) for m in np.array([3, 8])]
    assert [data.recipe for data in by_number] == ["load('digits', main=3)", "load('digits')"]
    assert mtl.models.mlp(by_number[0], hidden=(np.int64(4),)).recipe == "mlp(data, hidden=(4,))"
    assert recipes.call(mtl.fit, lr=np.float64(0.1)) == "fit(lr=0.1)"


def test_a_tensor_that_a_weighting_was_given_is_written_down():
    given = aggregation.UPGradWeighting(pref_vector=torch.tensor([0.75, 0.25]))
    assert recipes.of(given) == "UPGradWeighting(pref_vector=tensor([0.75, 0.25]))"
    again = recipes.make(recipes.of(given), {**vars(aggregation), "tensor": torch.tensor})
    assert torch.equal(again.pref_vector, given.pref_vector)
    assert recipes.of(aggregation.UPGradWeighting()) == "UPGradWeighting()"
    projector = type(aggregation.UPGradWeighting().projector)(norm_eps=0.1)
    with pytest.raises(TypeError, match=r"projector is .*, which cannot be written down; expected the default"):
        recipes.of(aggregation.UPGradWeighting(projector=projector))


def test_recipes_of_data_and_models_make_the_same_again():
    data = mtl.datasets.load("digits", main=3, label_noise=0.2).only(["is_3", "is_1"]).train_on_meta(1, hold_out=0.25)
    assert (
        data.recipe == "load('digits', label_noise=0.2, main=3).only(['is_3', 'is_1']).train_on_meta(1, hold_out=0.25)"
    )
    again = recipes.make(data.recipe, {"load": mtl.datasets.load})
    for seed in (0, 5):
        one, other = data.resample(seed), again.resample(seed)
        assert one.recipe == other.recipe == data.recipe
        for split in ("train", "meta", "test"):
            assert torch.equal(one.splits[split].x, other.splits[split].x)
            assert torch.equal(one.splits[split].y["is_3"], other.splits[split].y["is_3"])
    model = mtl.models.mlp(data, hidden=(8,), head=[4])
    assert model.recipe == "mlp(data, head=[4], hidden=(8,))"
    assert mtl.models.mlp(data).recipe == "mlp(data)"
    assert str(recipes.make(model.recipe, {"mlp": mtl.models.mlp, "data": data})) == str(model)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("load('digits'", "is no recipe"),
        ("open('file')", "no 'open' is known to recipes"),
        ("load.__globals__", "has no place in a recipe"),
        ("load('a').__class__()", "has no place in a recipe|not callable|known"),
        ("[load for load in load]", "has no place in a recipe"),
    ],
)
def test_a_recipe_runs_nothing_else(line, message):
    with pytest.raises(ValueError, match=message):
        recipes.make(line, {"load": lambda name: name})


def test_what_does_not_remember_its_arguments_has_no_recipe():
    class Secret:
        def __init__(self, value):
            self.kept = value

    with pytest.raises(TypeError, match="Secret does not keep its argument 'value'"):
        recipes.of(Secret(1))
    with pytest.raises(TypeError, match="is made inside a function"):
        recipes.of(lambda: None)
