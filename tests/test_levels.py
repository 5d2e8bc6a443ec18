from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score

import mtlkit as mtl
from mtlkit import levels as module
from mtlkit.levels import STRENGTHS, as_counts, levels


def values(runs, metric="loss"):
    rows = runs.frame[runs.frame["metric"] == metric]
    assert set(rows["split"]) == {"test"}
    return rows["value"].tolist()


@pytest.fixture(scope="module")
def digits():
    data = mtl.datasets.load("digits", label_noise=0.4)
    return data, levels(data, 2)


def test_the_constant_is_the_share_of_positives_among_clean_meta_labels(digits):
    data, found = digits
    for seed, loss in enumerate(values(found["constant"])):
        draw = data.resample(seed)
        share = draw.meta.y["is_8"].mean().item()
        assert loss == pytest.approx(log_loss(draw.test.y["is_8"], np.full(len(draw.test), share)))


def test_linear_models_are_those_of_scikit_learn_with_the_penalty_that_unused_clean_rows_prefer(digits):
    data, found = digits
    draw = data.resample(1)
    clean, held = (draw.meta.take(rows) for rows in torch.arange(200).split([150, 50]))
    for name, train, chooses in (("linear model", draw.train, draw.meta), ("linear model, clean rows", clean, held)):
        models = [
            LogisticRegression(C=c, solver="newton-cholesky", tol=1e-9).fit(train.x, train.y["is_8"]) for c in STRENGTHS
        ]
        losses = [log_loss(chooses.y["is_8"], m.predict_proba(chooses.x)[:, 1]) for m in models]
        best = models[int(np.argmin(losses))].predict_proba(draw.test.x)[:, 1]
        assert values(found[name])[1] == pytest.approx(log_loss(draw.test.y["is_8"], best), rel=1e-6)
        assert values(found[name], "roc_auc")[1] == pytest.approx(roc_auc_score(draw.test.y["is_8"], best), abs=1e-6)


def test_the_penalty_is_lowered_while_unused_rows_gain_by_it(digits, monkeypatch):
    data, found = digits
    tried, linear = [], module.linear
    monkeypatch.setattr(module, "linear", lambda data, strength: tried.append(strength) or linear(data, strength))
    assert values(levels(data, 1)["linear model"]) == values(found["linear model"])[:1]
    on_noisy = tried[: tried.index(STRENGTHS[0], 1)]
    assert on_noisy == list(STRENGTHS[: len(on_noisy)])
    assert 1 < len(on_noisy) < len(STRENGTHS)


def test_regressions_and_classes_have_floors_too():
    toy = levels(mtl.datasets.load("synthetic", label_noise=0.3), 1, trees=True)
    assert values(toy["constant"])[0] == pytest.approx(1, abs=0.3)
    assert values(toy["linear model, clean rows"])[0] < 0.7 < values(toy["constant"])[0]
    assert set(toy) == {"constant", "linear model", "linear model, clean rows", "boosted trees"}
    pairs = levels(mtl.datasets.load("multi_digits"), 1)
    assert values(pairs["constant"])[0] == pytest.approx(np.log(10), abs=0.1)
    assert values(pairs["linear model"], "accuracy")[0] > 0.8


def test_a_floor_that_saw_one_class_does_not_depend_on_the_number_of_test_rows():
    data = mtl.datasets.load("digits")
    y = {**data.train.y, "is_8": torch.zeros(len(data.train))}
    one_class = replace(data, train=replace(data.train, y=y), redraw=None)
    few = replace(one_class, test=data.test.take(torch.arange(100)))
    for part in (one_class, few):
        share = 0.5 / len(data.train)
        expected = log_loss(part.test.y["is_8"], np.full(len(part.test), share))
        assert values(levels(part, 1)["linear model"]) == pytest.approx([expected])


def test_floors_are_kept_in_a_store(tmp_path):
    data, path = mtl.datasets.load("digits", label_noise=0.4), tmp_path / "runs.parquet"
    with pytest.raises(LookupError, match=r"has no constant of load\('digits', label_noise=0.4\) for seeds \[0, 1\]"):
        levels(data, 2, store=path, missing="raise")
    assert levels(data, 2, store=path, missing="skip") == {}
    fresh = levels(data, 2, store=path)
    before = path.read_bytes()
    again = levels(data, 2, store=path, missing="raise")
    assert path.read_bytes() == before
    assert {name: values(runs) for name, runs in again.items()} == {name: values(runs) for name, runs in fresh.items()}


def test_of_texts_a_linear_model_sees_how_often_tokens_occur():
    pytest.importorskip("tokenizers")
    data = mtl.datasets.load("toy_language", main="paraphrase", n_train=40, n_meta=20, n_test=30)
    seen = as_counts(data)
    for where, split in data.splits.items():
        own = split.take(torch.isfinite(split.y["paraphrase"]))
        assert len(seen.splits[where]) == len(own)
        for ids, row in zip(own.x.long().tolist(), seen.splits[where].x, strict=True):
            expected = [0.0 if i == data.text.padding else ids.count(i) for i in range(data.text.entries)]
            assert row.tolist() == expected
    train, meta, test = seen.train, seen.meta, seen.test
    models = [
        LogisticRegression(C=c, solver="newton-cholesky", tol=1e-9).fit(train.x, train.y["paraphrase"])
        for c in STRENGTHS
    ]
    losses = [log_loss(meta.y["paraphrase"], m.predict_proba(meta.x)[:, 1]) for m in models]
    best = models[int(np.argmin(losses))].predict_proba(test.x)[:, 1]
    found = levels(data, 1)
    assert values(found["linear model"])[0] == pytest.approx(log_loss(test.y["paraphrase"], best), rel=1e-6)
    images = mtl.datasets.load("digits")
    assert as_counts(images) is images
