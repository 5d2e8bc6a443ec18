import copy

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import torch
from companion import architectures, figures
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle

import mtlkit as mtl
from mtlkit import models, studies


@pytest.fixture(scope="module")
def data():
    return mtl.datasets.load("layered", n_inputs=4, n_train=40, n_meta=12, n_test=15)


def drawn(model):
    models.initialise(model, torch.Generator().manual_seed(0))
    return model


def stripes(figure):
    """Corner of each coloured stripe or square to its colour's place among the tasks."""
    colours = [to_rgb(colour) for colour in architectures.COLOURS]
    patches = [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle)]
    faces = {(p.get_x(), p.get_y()): p.get_facecolor()[:3] for p in patches if p.get_facecolor()[3] > 0}
    return {corner: colours.index(face) for corner, face in faces.items() if face in colours}


def by_level(figure, rise=1.0):
    """Layer or head level to the tasks whose stripes lie there."""
    found = {}
    for (_, y), task in stripes(figure).items():
        found.setdefault(int(y / rise), []).append(task)
    return {level: sorted(tasks) for level, tasks in found.items()}


def test_a_layer_has_the_stripes_of_the_tasks_that_train_it(data):
    model = models.mlp(data, hidden=(5, 4), stages={"side_b": 1})
    figure = architectures.draw_low_level(model)
    assert by_level(figure) == {1: [0, 1, 2, 2], 2: [0, 1], 3: [0, 1]}  # side_b trains layer 1 and its head beside it
    trained = {task: len(names) // 2 for task, names in model.trained().items()}
    assert trained == {"same_side": 2, "side_a": 2, "side_b": 1}


def test_routes_are_those_of_the_model(data):
    model = drawn(models.routed(models.mlp(data, hidden=(6, 8)), 0.5))
    figure = architectures.draw_routed(model)
    squares = [p for p in figure.axes[0].patches if isinstance(p, Rectangle) and p.get_edgecolor()[:3] != (0, 0, 0)]
    colours = [to_rgb(colour) for colour in architectures.COLOURS]
    units = [p for p in squares if p.get_facecolor()[:3] in [*colours, (1, 1, 1)] and p.get_width() < 0.6]
    rows = {}
    for square in units:
        rows.setdefault(round(square.get_y(), 6), []).append(square)
    found = [
        [patch.get_facecolor()[:3] != (1, 1, 1) for patch in sorted(row, key=Rectangle.get_x)]
        for _, row in sorted(rows.items())
    ]
    expected = [mask for route in model.routes for mask in reversed(route.mask.tolist())]
    assert found == expected


def test_every_trunk_and_every_head_is_there(data):
    figure = architectures.draw_multi_backbone(models.multi_backbone(models.mlp(data, hidden=(5, 4)), 3))
    every = sorted([0, 1, 2] * 3)
    found = by_level(figure)
    assert (found[1], found[2]) == (every, every)
    assert sorted(found[max(found)]) == [0, 1, 2]


@pytest.mark.parametrize("joint", [True, False])
def test_changes_that_are_switched_off_are_empty(data, joint):
    model = drawn(models.taps(models.mlp(data, hidden=(5, 4)), joint=joint))
    with torch.no_grad():
        model.changes[1][0].score.fill_(0)
        model.changes[2][1].score.fill_(-1)
    figure = architectures.draw_taps(model)
    shared = [0, 1, 2] if joint else []
    found = by_level(figure)
    assert found[1] == sorted([*shared, 0, 2])
    assert found[2] == sorted([*shared, 0, 1])
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts.count("off") == 2
    assert texts.count("+ δ") == 4


def test_pictures_are_the_same_bytes_again(data, tmp_path):
    model = drawn(models.routed(models.mlp(data, hidden=(5, 4))))
    for name in ("a", "b"):
        figures.save_figure(architectures.draw_routed(copy.deepcopy(model)), tmp_path, name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_what_each_contender_keeps(data):
    plain, alone = models.mlp(data, hidden=(5, 4)), data.only(["same_side"])
    candidates = {
        "single task": studies.Candidate(models.mlp(alone, hidden=(5, 4)), alone, mtl.Uniform()),
        "routed": [studies.Candidate(models.routed(plain, share), data, mtl.Uniform()) for share in (0.5, 1)],
        "TAPS, λ 3": studies.Candidate(models.taps(plain, strength=3.0), data, mtl.Uniform()),
    }
    options = {"batch_size": 10, "steps_per_epoch": 20, "dtype": torch.float64, "jobs": 1}
    outcome = studies.study(candidates, lrs=[0.03], tuning_seeds=1, seeds=2, epochs=2, **options)
    found = architectures.kept("c", candidates, outcome, n_tasks=3)
    trunk, head = 4 * 5 + 5 + 5 * 4 + 4, 4 + 1
    of = found[found["metric"] == "parameters"].pivot(index="method", columns="seed", values="value")
    assert of.loc["single task"].tolist() == [trunk + head] * 2
    assert of.loc["separate models"].tolist() == [3 * (trunk + head)] * 2
    assert of.loc["routed"].tolist() == [trunk + 3 * head] * 2
    runs = outcome.runs["TAPS, λ 3"]
    for seed in runs.seeds:
        model = runs.model(seed)
        assert of.loc["TAPS, λ 3", seed] == trunk + 3 * head + sum(model.task_parameters().values())
        share = found[(found["metric"] == "task_share") & (found["seed"] == seed)]["value"]
        assert share.tolist() == [model.task_share()]


def test_sizes_against_losses():
    table = pd.DataFrame(
        {"parameters": [100.0, 20.0], "mean": [0.2, 0.3], "low": [0.1, 0.25], "high": [0.3, 0.35]}, ["TAPS", "routed"]
    )
    with mpl.rc_context(figures.STYLE):
        figure = architectures.sizes(table, {"constant": 0.5})
    axis = figure.axes[0]
    points = {line.get_label(): (line.get_xdata()[0], line.get_ydata()[0]) for line in axis.lines}
    assert points["TAPS"] == (100, 0.2)
    assert points["routed"] == (20, 0.3)
    assert any(np.allclose(line.get_ydata(), 0.5) for line in axis.lines)
