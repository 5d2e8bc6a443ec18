import math
import re

import numpy as np
import pandas as pd
import pytest
import torch
from companion import figures

import mtlkit as mtl


@pytest.fixture(scope="module")
def runs():
    data = mtl.datasets.load("digits", label_noise=0.6)
    options = {"epochs": 2, "batch_size": 100, "seeds": 2, "dtype": torch.float64, "device": "cpu"}
    return [mtl.fit(mtl.models.mlp(data), data, w, **options) for w in (mtl.Uniform(), mtl.SLGrad())]


@pytest.fixture(scope="module")
def table(runs):
    import pandas as pd

    return pd.concat([r.summary().xs("is_8", level="task").xs("loss", level="metric") for r in runs])


def test_ranking_puts_the_lowest_loss_on_top(table):
    axis = figures.ranking({"noisy": table}, label="loss").axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()][-1] == table["mean"].idxmin()


def test_each_row_of_a_ranking_has_its_own_contenders_best_on_top():
    def one(**means):
        return pd.DataFrame({name: pd.Series(means) for name in ("mean", "low", "high")})

    panels = {"1": one(a=0.3, b=0.2), "2": one(a=0.1, c=0.9), "3": one(d=0.4, b=0.5)}
    axes = figures.ranking(panels, label="loss").axes
    shown = [[label.get_text() for label in axis.get_yticklabels()] for axis in (axes[0], axes[2])]
    assert shown == [["c", "a", "b"], ["b", "d"]]


def test_weights_are_drawn_while_half_of_the_seeds_train_and_a_quarter_weighs():
    epochs = {1: 4, 2: 4, 3: 2, 4: 1}
    rows = [
        ("d", "SLGrad", seed, epoch, "train", "t", "noisy_weight", np.nan if seed and epoch == 2 else 0.5, False)
        for epoch, seeds in epochs.items()
        for seed in range(seeds)
    ]
    frame = pd.DataFrame(
        rows, columns=["dataset", "method", "seed", "epoch", "split", "task", "metric", "value", "diverged"]
    )

    def drawn(frame):
        run = mtl.Runs(frame, pd.DataFrame(), "t", {})
        losses = pd.DataFrame({"mean": [0.5], "low": [0.4], "high": [0.6]}, index=["SLGrad"])
        figure = figures.weights_and_losses([run], losses, {}, title="t", steps_per_epoch=1)
        return figure.axes[0].lines[0].get_xdata().tolist()

    assert drawn(frame) == [1, 2, 3]
    assert drawn(frame.assign(value=frame["value"].where(frame["epoch"] != 2))) == [1, 3]


def test_saved_figures_are_the_same_bytes_every_time(runs, table, tmp_path):
    for folder in ("a", "b"):
        figure = figures.weights_and_losses(runs, table, {"constant": 0.3}, title="t", steps_per_epoch=10)
        figures.save_figure(figure, tmp_path / folder, "hero")
    for name in ("hero.svg", "hero.png"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    drawn = (tmp_path / "a" / "hero.svg").read_text()
    assert set(re.findall(r"\d+\.\d{4,}", drawn)) == {"0.015625"}  # the scale of the glyphs stays
    named = set(re.findall(r'id="([^"]*)"', drawn))
    assert not [name for name in named if re.fullmatch(r"[a-zA-Z]*[0-9a-f]{10}", name)]
    used = re.findall(r'(?:url\(|href=")#([^")]*)', drawn)
    assert len(used) > 20
    assert set(used) <= named
    figures.save_figure(figure, None, "nothing")


def test_every_method_has_one_look_and_unknown_ones_are_grey():
    looks = list(figures.LOOKS.values())
    assert len(set(looks)) == len(looks)
    assert figures.look("something else")[0] == figures.GREY
    colour, line, marker = figures.look("SLGrad, as published")
    assert (colour, marker) == (figures.look("SLGrad")[0], figures.look("SLGrad")[2])
    assert line != figures.look("SLGrad")[1]


def test_a_wide_span_has_a_logarithmic_axis_and_a_narrow_or_an_accuracy_has_not():
    def scale(means, **options):
        table = pd.DataFrame({"mean": means, "low": means, "high": means}, index=["a", "b"])
        return figures.ranking({"t": table}, label="x", **options).axes[0].get_xscale()

    assert scale([0.1, 0.9]) == "log"
    assert scale([0.1, 0.4]) == "linear"
    assert scale([0.1, 0.9], lower_is_better=False) == "linear"
    assert scale([0.1, 0.2], floors={"t": {"constant": 1.0}}) == "log"


def test_where_the_weight_goes_adds_up():
    table = pd.DataFrame([[0.4, 0.1, 0.3, 0.2], [0.2, 0.2, 0.3, 0.3]], columns=list(figures.PARTS), index=[1, 2])
    axis = figures.stacked_shares({"a": table}).axes[0]
    tops = [max(area.get_paths()[0].vertices[:, 1]) for area in axis.collections]
    assert tops == pytest.approx([0.4, 0.5, 0.8, 1.0])


def test_trajectories_draw_what_the_method_reported():
    data = mtl.datasets.load("multi_digits", n_train=200, n_meta=50, n_test=50)
    run = mtl.fit(mtl.models.mlp(data), data, mtl.AlphaVIL(), epochs=2, batch_size=100, seeds=2, device="cpu")
    axis = figures.trajectories([run], {"alpha": "α"}).axes[0]
    rows = run.frame[(run.frame.metric == "alpha") & (run.frame.task == "left")]
    assert axis.lines[0].get_ydata().tolist() == pytest.approx(rows.groupby("epoch")["value"].mean().tolist())
    assert axis.get_legend().get_texts()[0].get_text() == "left (main)"


def stopping(name="SLGrad"):
    """Two seeds: one selects epoch 2 and goes on, one selects epoch 1 and stops."""
    rows = [
        (0, epoch, split, value)
        for split, values in (("meta", [9, 4, 3, 5]), ("test", [9, 8, 6, 7]))
        for epoch, value in enumerate(values)
    ]
    rows += [
        (1, epoch, split, value)
        for split, values in (("meta", [1, 2, 3]), ("test", [1, 2, 4]))
        for epoch, value in enumerate(values)
    ]
    frame = pd.DataFrame(rows, columns=["seed", "epoch", "split", "value"])
    frame = frame.assign(dataset="d", method=name, task="main", metric="loss", diverged=False)
    return mtl.Runs(frame, pd.DataFrame(), "main", {})


def test_what_is_reached_is_the_test_loss_at_the_best_epoch_so_far_of_the_meta_split():
    floors = {"noisy": {"constant": 7.5}}
    axis = figures.reached({"noisy": [stopping()]}, floors, steps_per_epoch=10).axes[0]
    assert axis.lines[0].get_xdata().tolist() == [10, 20, 30]
    assert axis.lines[0].get_ydata().tolist() == [(8 + 2) / 2, (6 + 2) / 2, (6 + 2) / 2]
    assert list(axis.lines[1].get_ydata()) == [7.5, 7.5]
    assert axis.lines[1].get_label() == "constant"


def test_ranking_draws_floors_in_place_of_a_reference(table):
    figure = figures.ranking({"noisy": table}, label="loss", floors={"noisy": {"constant": 0.3, "linear model": 0.2}})
    lines = [line for line in figure.axes[0].lines if line.get_label() in ("constant", "linear model")]
    assert [line.get_xdata()[0] for line in lines] == [0.3, 0.2]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["constant", "linear model"]


def test_floors_far_below_are_named_and_do_not_squeeze_the_methods():
    table = pd.DataFrame({"mean": [0.96, 0.97], "low": [0.95, 0.96], "high": [0.97, 0.98]}, index=["DIW", "AlphaVIL"])
    floors = {"digits": {"constant": 0.1, "linear model": 0.9}}
    axis = figures.ranking({"digits": table}, label="accuracy", lower_is_better=False, floors=floors).axes[0]
    assert axis.get_xlim() == pytest.approx((0.9 - 0.15 * 0.08, 0.98 + 0.1 * 0.08))
    assert [text.get_text() for text in axis.texts] == ["← constant 0.10"]
    near = {"digits": {"constant": 0.91}}
    axis = figures.ranking({"digits": table}, label="accuracy", lower_is_better=False, floors=near).axes[0]
    assert not axis.texts


def test_ratio_by_size_draws_a_line_per_pair_with_its_interval():
    import pandas as pd

    rows = [("left", 100, 1.5, 1.2, 1.8), ("left", 1000, 1.1, 0.9, 1.2), ("right", 100, 0.5, 0.4, 0.7)]
    table = pd.DataFrame(rows, columns=["pair", "size", "ratio", "low", "high"])
    figure = figures.ratio_by_size({"DWA": table, "Uniform": table}, label="ratio")
    axis = figure.axes[0]
    first, second = axis.containers
    assert first.get_label() == "left"
    assert first.lines[0].get_xdata().tolist() == [100, 1000]
    assert first.lines[0].get_ydata().tolist() == [1.5, 1.1]
    bars = [segment[:, 1].tolist() for segment in second.lines[2][0].get_segments()]
    assert bars == [pytest.approx([0.4, 0.7])]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["100", "1,000"]
    assert figure.axes[1].get_title(loc="left") == "Uniform"
    assert [label.get_text() for label in axis.get_yticklabels()] == ["0.5", "1"]
    close = figures.ratio_by_size({"DWA": table.assign(ratio=1.1, low=1.02, high=1.2)[:1]}, label="ratio").axes[0]
    assert [label.get_text() for label in close.get_yticklabels()] == ["1", "1.1", "1.2"]


def test_around_drift_draws_means_of_shares_and_the_drift():
    import pandas as pd

    shares = pd.DataFrame([[0.2, 0.4, 0.6], [0.4, 0.4, 0.8]], columns=[1, 2, 3])
    figure = figures.drift_shares(
        {"a": {"drift": shares, "none": shares / 2}, "b": {"drift": shares}}, after=2, columns=2
    )
    lines = figure.axes[0].lines
    assert lines[0].get_ydata().tolist() == pytest.approx([0.3, 0.4, 0.7])
    assert lines[1].get_ydata().tolist() == pytest.approx([0.15, 0.2, 0.35])
    assert lines[2].get_xdata()[0] == 2.5


def test_levels_draw_a_line_per_method_in_its_panel():
    rows = [("a", 0.0, 1.0), ("a", 0.6, 2.0), ("b", 0.6, 3.0)]
    table = pd.DataFrame(rows, columns=["method", "level", "gain"]).assign(low=0.0, high=4.0)
    figure = figures.gain_by_level(
        {("top", "noise"): table, ("bottom", "noise"): table[table.method == "a"]}, label="gain"
    )
    top, bottom = figure.axes
    lines = [line for line in top.lines if line.get_marker() not in ("None", "")]
    assert [line.get_ydata().tolist() for line in lines] == [[1, 2], [3]]
    assert [round(x) for x in lines[0].get_xdata()] == [0, 1]
    assert [round(x) for x in lines[1].get_xdata()] == [1]
    assert [tick.get_text() for tick in bottom.get_xticklabels()] == ["0", "0.6"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]
    assert (top.get_title(loc="left"), bottom.get_title(loc="left")) == ("top", "bottom")
    wild = table.assign(low=-99.0, high=99.0)
    axis = figures.gain_by_level({("top", "noise"): wild}, label="gain").axes[0]
    assert axis.get_ylim() == pytest.approx((-0.15 * 3, 1.15 * 3))  # the means 0 to 3, whatever the intervals


def test_ratios_leave_out_what_was_not_measured():
    table = pd.DataFrame({"small": {"Uniform": 1.0, "SLGrad": 2.5}, "large": {"Uniform": 1.0, "SLGrad": math.nan}})
    left, right = figures.ratios(table, label="time / plain step").axes
    assert [text.get_text() for text in left.texts] == ["1.00", "2.50"]
    assert [text.get_text() for text in right.texts] == ["1.00"]
    assert [tick.get_text() for tick in left.get_yticklabels()] == ["Uniform", "SLGrad"]
    assert left.lines[0].get_xydata().tolist() == [[1.0, 1.0], [2.5, 0.0]]


def test_growth_has_a_row_for_each_label():
    table = pd.DataFrame({"a": [1.0, 2.0], "b": [3.0, 9.0]}, index=[10, 100])
    panels = {(label, axis): table for label in ("time", "memory") for axis in ("batch", "tasks")}
    axes = figures.growth(panels).axes[:4]
    assert [axis.get_ylabel() for axis in axes] == ["time", "", "memory", ""]
    assert [axis.get_xlabel() for axis in axes] == ["batch", "tasks"] * 2
    assert axes[3].lines[1].get_xydata().tolist() == [[10.0, 3.0], [100.0, 9.0]]
    assert [tick.get_text() for tick in axes[0].get_xticklabels()] == ["10", "100"]


def test_side_by_side_has_every_method_of_every_condition():
    cells = {(c, m): (v, v - 0.1, v + 0.1) for c, m, v in (("x", "Uniform", 0.5), ("x", "DIW", 0.7), ("y", "DIW", 0.2))}
    table = pd.DataFrame.from_dict(cells, "index", columns=["mean", "low", "high"])
    table.index = pd.MultiIndex.from_tuples(table.index)
    axis = figures.side_by_side(table, label="accuracy", floors={"x": {"constant": 0.4}}, names=["ex", "why"]).axes[0]
    drawn = {line.get_label(): dict(zip(line.get_xdata(), line.get_ydata(), strict=True)) for line in axis.lines}
    assert list(drawn["Uniform"].values()) == [0.5]
    assert list(drawn["DIW"].values()) == [0.7, 0.2]
    assert [round(place) for place in drawn["DIW"]] == [0, 1]
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["ex", "why"]
    assert figures.FLOORS["constant"][0] == figures.BLACK
