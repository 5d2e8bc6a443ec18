import os
import shutil
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
import torch
import yaml
from companion import full, notebook

import mtlkit as mtl
from mtlkit import recipes, studies
from mtlkit.store import SETTINGS, Store

OPTIONS = {"batch_size": 50, "steps_per_epoch": 4, "dtype": torch.float64, "patience": 2}


@pytest.fixture
def stored(tmp_path):
    """A store of two short fits."""
    data = mtl.datasets.load("digits", label_noise=0.4).only(["is_8", "is_3"])
    model = mtl.models.mlp(data, hidden=(8,))
    both = {"Uniform": mtl.Uniform(), "SLGrad": mtl.SLGrad(lookahead=0.1)}
    candidates = {name: studies.Candidate(model, data, method) for name, method in both.items()}
    path = tmp_path / "runs.parquet"
    adam = {"optimizer": torch.optim.Adam, "seeds": 2, "tuning_seeds": 1, "epochs": 3, "jobs": 1}
    studies.study(candidates, lrs=[0.01], store=path, **adam, **OPTIONS)
    return path


def test_stored_fits_are_made_again(stored):
    assert full.check(4, 0, [stored]) == (4, [])


def test_a_stored_fit_is_made_again_beside_another_seed(stored, monkeypatch):
    trained = []
    monkeypatch.setattr(full, "fit", lambda *given, **options: trained.append(options["seeds"]))
    for _, row in Store(stored).table.drop_duplicates([*SETTINGS, "seed"]).iterrows():
        full.again(row)
        assert trained[-1] == [row["seed"], 1 - row["seed"]]  # alone, sums have another order; no seed beyond the last
    assert len(trained) == 4


def test_a_fit_that_differs_is_named(stored):
    store = Store(stored)
    table = store.table.assign(value=store.table["value"] * (1 + 0.2 * (store.table["method"] == "SLGrad")))
    store._write(table)
    same, found = full.check(4, 0, [stored])
    assert same == 2
    assert len(found) == 2
    assert "runs.parquet, seed 0: test loss" in found[0]
    assert "SLGrad(lookahead=0.1), batch_size=50" in found[0]
    assert len(full.check(1, 0, [stored])[1]) <= 1


@pytest.mark.parametrize(("factors", "differing"), [((1.5, 0.5), 0), ((0.5, 0.5), 2)])
def test_a_fit_may_differ_as_much_as_seeds_do(stored, factors, differing):
    store = Store(stored)
    table = store.table
    by_seed = table["seed"].map(dict(enumerate(factors))).where(table["method"] == "SLGrad", 1.0)
    store._write(table.assign(value=table["value"] * by_seed))
    same, found = full.check(4, 0, [stored])
    assert (same, len(found)) == (2, differing)


def test_no_fits_are_an_error_in_words(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(full, "RESULTS", tmp_path)
    assert full.main(["--check", "2"]) == 1
    assert "fill it with make full" in capsys.readouterr().err


def test_an_unknown_study_is_named(capsys):
    assert full.main(["nothing"]) == 1
    assert "params.yaml has no full entry 'nothing', expected one of label_noise_mnist" in capsys.readouterr().err


def test_every_full_entry_has_a_notebook_with_its_parameters():
    sections = yaml.safe_load(full.Path("params.yaml").read_text())["full"]
    for name, section in sections.items():
        known = notebook.parameters(full.Path(f"notebooks/{section['notebook']}.ipynb"))
        assert set(section["parameters"]) | {"missing"} <= set(known), name
        assert section["parameters"]["store"].startswith("../data/results/")


def test_every_stored_weighting_can_be_made_again():
    names = full.known()
    for path in full.RESULTS.glob("*.parquet"):
        for text in set(Store(path).table["weighting"].astype(str)) - {"none"}:
            assert isinstance(recipes.make(text, names), mtl.weighting.Weighting | mtl.merging.Merging), text


def test_the_stores_are_small_and_known():
    paths = sorted(full.Path("data/results").glob("*.parquet"))
    assert sum(path.stat().st_size for path in paths) < 5e6
    for path in paths:
        table = Store(path).table
        assert isinstance(table, pd.DataFrame)
        assert not table["commit"].str.contains("dirty|unknown").any()


def test_a_killed_run_goes_on_and_trains_no_finished_fit_twice(tmp_path):
    (tmp_path / "notebooks").mkdir()
    shutil.copy("notebooks/hydalearn_drift.ipynb", tmp_path / "notebooks")
    small = {"drift_after": 1, "epochs": 3, "steps_per_epoch": 20, "patience": 1, "static_shares": [0.5], "seeds": 2}
    small |= {"learning_rates": [0.003, 0.01, 0.03], "more_learning_rates": 0, "tuning_seeds": 1, "doublings": 0}
    small |= {"datasets": ["synthetic"], "store": "../runs.parquet"}
    sections = {"full": {"small": {"notebook": "hydalearn_drift", "parameters": small}}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(sections))
    command = [sys.executable, "-m", "companion.full", "small"]
    options = {"cwd": tmp_path, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}

    def fits():
        path = tmp_path / "runs.parquet"
        table = Store(path).table if path.exists() else pd.DataFrame(columns=[*SETTINGS, "epochs", "seed"])
        return table.drop_duplicates([*SETTINGS, "epochs", "seed"])

    for wanted in (1, 5, 12):
        running = subprocess.Popen(command, **options)
        while len(fits()) < wanted and running.poll() is None:
            time.sleep(0.05)
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
        kept = fits()
        assert len(kept) >= wanted
    subprocess.run(command, check=True, **options)
    table = Store(tmp_path / "runs.parquet").table
    assert not table.duplicated([*SETTINGS, "epochs", "seed", "epoch", "split", "task", "metric"]).any()
    done = fits()
    assert len(done) > len(kept)
    assert kept.merge(done, on=[*SETTINGS, "epochs", "seed", "value"]).shape[0] == len(kept)
