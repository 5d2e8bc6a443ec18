"""``python -m mtlkit advise``: files as people have them, refusals in one sentence."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

import mtlkit as mtl
from mtlkit.__main__ import main


@pytest.fixture
def folder(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 2))
    frame = pd.DataFrame(
        {"price": [f"€ {v:,.0f}" for v in 5000 + 900 * x[:, 0]], "b, c": x[:, 1], "stars": rng.integers(1, 6, 120)}
    )
    frame["sold"] = np.where(x[:, 0] + rng.normal(0, 0.5, 120) > 0, "yes", "no")
    (tmp_path / "my.csv").write_text("sep=;\n" + frame.to_csv(index=False, sep=";"))
    (tmp_path / "latin.csv").write_bytes("stad,prijs\nLiège,1\n".encode("latin-1"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.csv", "--main", "sold"], "there is no file none.csv"),
        (["latin.csv", "--main", "prijs"], "latin.csv is not utf-8: byte 0xe8 does not fit"),
        (["my.csv", "--main", "slod"], "no column 'slod' (did you mean 'sold'?)"),
        (
            ["my.csv", "--main", "sold", "--auxiliaries", "stars", "sold"],
            "column 'sold' is given 2 roles, expected one",
        ),
        (["my.csv", "--main", "sold", "--kinds", "sold"], "kinds is 'sold', expected TARGET=KIND"),
        (["my.csv", "--main", "sold", "--kinds", "sold=regression"], "target 'sold' holds text"),
        (["my.csv", "--main", "sold", "--jobs", "0"], "jobs is 0, expected a whole number from 1"),
        (["my.csv", "--main", "sold", "--out", "my.csv"], "out is my.csv, which is a file, expected a folder"),
        (["my.csv", "--main", "sold", "--groups", "stars", "--time", "b, c"], "expected one of them at most"),
    ],
)
def test_a_refusal_is_one_sentence_and_status_2(folder, arguments, message, capsys):
    assert main(["advise", *arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert message in said.err
    assert said.err.count("\n") == 1
    assert {path.name for path in folder.iterdir()} == {"my.csv", "latin.csv"}


def test_a_refusal_as_the_shell_sees_it(folder):
    command = [sys.executable, "-m", "mtlkit", "advise", "my.csv", "--main", "sold", "--auxiliaries", "nothing"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "no column 'nothing', expected one of price, b, c, stars, sold\n"


def test_the_report_and_what_it_leaves(folder, capsys):
    options = ["--auxiliaries", "stars", "--kinds", "stars=regression", "--effort", "quick", "--jobs", "1"]
    assert main(["advise", "my.csv", "--main", "sold", *options, "--out", "mine"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("Use a linear model: ROC AUC 0.")
    assert "Warning: column 'price': text such as '€ 5,113' read as 5113." in said
    names = {
        "report.html",
        "model.pt",
        *(f"{n}.csv" for n in ("levels", "helps", "which", "suspects", "check", "columns")),
    }
    assert {path.name for path in (folder / "mine").iterdir()} == names
    report = (folder / "mine" / "report.html").read_text()
    assert report.startswith("<p><b>Use a linear model: ")
    assert report.count("<svg") == 1
    assert "malignant" not in report
    model = mtl.load_advised("mine/model.pt")
    found = model.predict(mtl.advice.read("my.csv"))
    assert found.columns.tolist() == ["no", "yes"]
    levels = pd.read_csv(folder / "mine" / "levels.csv", index_col="level")
    assert levels.loc["linear model", "verdict"] == "recommended"
    assert levels.loc["constant", "mean"] == 0.5
    which = pd.read_csv(folder / "mine" / "which.csv", index_col="auxiliary")
    assert which.index.tolist() == ["stars"]
    suspects = pd.read_csv(folder / "mine" / "suspects.csv", index_col="row")
    assert len(suspects) == 120
    assert suspects["suspicion"].is_monotonic_decreasing
