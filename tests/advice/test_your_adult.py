"""The census table, from the original files where the tests were given a folder of them."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from mtlkit import studies, your_data
from mtlkit.datasets.uci import _ADULT


@pytest.fixture
def adult():
    folder = os.environ.get("MTLKIT_DATA")
    if not folder:
        pytest.skip("MTLKIT_DATA is not set: not run on the real files")
    return pd.read_csv(Path(folder) / "adult" / "adult.data", names=_ADULT, skipinitialspace=True, na_values="?")


def test_adult_from_column_names_alone(adult, tmp_path):
    adult[:6000].to_csv(tmp_path / "adult.csv", index=False)
    frame = your_data.read(tmp_path / "adult.csv")
    prepared = your_data.prepare(frame, "income", "marital-status, education-num", leave_out="education", seeds=3)
    data = prepared.data
    assert {task.name: task.kind for task in data.tasks} == {
        "income": "binary", "marital-status": "multiclass", "education-num": "regression",
    }  # fmt: skip
    assert prepared.columns.loc["occupation", ["role", "read as"]].tolist() == ["input", "category"]
    assert prepared.columns.loc["occupation", "missing"] > 0
    quick = {"seeds": 3, "tuning_seeds": 1, "tuning_epochs": 1, "epochs": 4, "device": "cpu"}
    outcome = studies.study(your_data.contenders(data), lrs=[0.01], jobs=1, **{**your_data.budget(data), **quick})

    drop = ["income", "marital-status", "education-num", "education"]
    inputs = frame.drop(columns=drop)
    numbers = inputs.select_dtypes("number").columns
    scores = []
    for seed in range(3):
        draw = data.resample(seed)
        train, test = draw.train.rows.numpy(), draw.test.rows.numpy()
        columns = make_column_transformer(
            (StandardScaler(), numbers), (OneHotEncoder(handle_unknown="ignore"), inputs.columns.drop(numbers))
        )
        plain = make_pipeline(columns, LogisticRegression(max_iter=500)).fit(inputs.iloc[train], frame["income"][train])
        scores.append(roc_auc_score(frame["income"][test] == ">50K", plain.predict_proba(inputs.iloc[test])[:, 1]))
    ours = studies.per_seed(outcome, "roc_auc")
    assert ours["single task"].mean() == pytest.approx(np.mean(scores), abs=0.03)
    helps = your_data.against_single(outcome, data, "roc_auc")
    assert helps.loc["SLGrad", "difference"] == pytest.approx((ours["SLGrad"] - ours["single task"]).mean())
    text = your_data.answer_use(outcome, helps, your_data.attribution(outcome, data, "roc_auc"), data, "roc_auc")
    assert text.startswith("Use single-task training") == (not (helps["verdict"] == "better").any())
