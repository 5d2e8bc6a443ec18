import pandas as pd
import pytest
import torch

from mtlkit import Task
from mtlkit.datasets import Dataset, Split, from_frame, load


def split(n):
    nan = float("nan")
    y = {
        "yes<no>": torch.tensor([1, 0, nan, 0, 1, nan])[:n],
        "kind": torch.tensor([0, 2, 2, -1, 2, 1])[:n],
        "size": torch.tensor([1.0, 3, nan, nan, nan, nan])[:n],
    }
    noisy = torch.zeros(n, 3, dtype=torch.bool)
    noisy[0, 0] = n == 6
    return Split(torch.zeros(n, 2), y, torch.arange(n), noisy)


@pytest.fixture
def card():
    tasks = (Task("yes<no>", "binary"), Task("kind", "multiclass", n_classes=3), Task("size", "regression"))
    return Dataset(
        "tiny", tasks, split(6), split(3), split(1), source="made up", classes={"kind": ("a", "b", "c")}
    ).card


def test_numbers(card):
    frame = card.frame
    assert frame.loc[("yes<no>", "train")].to_dict() == {
        "kind": "binary",
        "rows": 6,
        "labelled": 4,
        "missing": pytest.approx(1 / 3),
        "noisy": 0.25,
        "labels": "50.0% positive",
    }
    assert frame.loc[("kind", "train"), "labels"] == "3 classes, 20.0% to 60.0%"
    assert frame.loc[("size", "train"), "labels"] == "2 ± 1"
    assert frame.loc[("size", "meta"), "labelled"] == 2
    assert frame["rows"].groupby("split").first().to_dict() == {"train": 6, "meta": 3, "test": 1}
    classes = card.classes
    assert classes.loc["kind", "labels"].tolist() == [1, 1, 3]
    assert classes.loc["kind", "name"].tolist() == ["a", "b", "c"]
    assert classes.loc["yes<no>", "share"].tolist() == [0.5, 0.5]
    assert "size" not in classes.index


def test_text_and_html(card):
    text, page = str(card), card._repr_html_()
    for part in ("name: tiny", "source: made up", "licence: not stated", "33.3%", "2 ± 1", "inputs: (2,) float32"):
        assert part in text
    for part in ("<li>main task: yes&lt;no&gt;</li>", "33.3%", "<table"):
        assert part in page
    assert "<no>" not in page


def test_units_and_categories():
    frame = pd.DataFrame({"y": range(0, 100, 2), "town": ["a", "b"] * 25})
    card = from_frame(frame, "y").card
    assert card.facts["unit of y"].endswith("taken out)")
    assert card.facts["inputs"] == "(1,) float64, 1 of them categorical"
    assert card.frame.loc[("y", "train"), "labels"] == "0 ± 1"


def test_no_label_at_all():
    nothing = Split(
        torch.zeros(2, 1), {"a": torch.full((2,), float("nan"))}, torch.arange(2), torch.zeros(2, 1, dtype=torch.bool)
    )
    card = Dataset("empty", (Task("a", "binary"),), nothing, nothing, nothing).card
    assert card.frame["labels"].tolist() == ["none"] * 3
    assert card.frame["missing"].tolist() == [1.0] * 3


def test_digits():
    data = load("digits", label_noise=0.6)
    assert data.card.frame.loc[("is_8", "train"), "noisy"] == pytest.approx(0.6)
    assert data.card.frame.loc[("is_8", "test"), "noisy"] == 0
    assert len(data.card.frame) == 30
