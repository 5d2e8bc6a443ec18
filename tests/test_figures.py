import pytest
import torch

import mtlkit as mtl
from mtlkit import figures


@pytest.fixture(scope="module")
def runs():
    data = mtl.datasets.load("digits", label_noise=0.6)
    options = {"epochs": 2, "batch_size": 100, "seeds": 2, "dtype": torch.float64, "device": "cpu"}
    return [mtl.fit(mtl.models.mlp(data), data, w, **options) for w in (mtl.Uniform(), mtl.SLGrad())]


@pytest.fixture(scope="module")
def table(runs):
    import pandas as pd

    return pd.concat([r.summary().xs("is_8", level="task").xs("loss", level="metric") for r in runs])


def test_curves_draw_the_mean_test_loss(runs):
    axis = figures.curves({"noisy": runs}).axes[0]
    frame = runs[1].frame
    rows = frame[(frame.split == "test") & (frame.task == "is_8") & (frame.metric == "loss")]
    assert axis.get_title(loc="left") == "noisy"
    assert axis.lines[1].get_ydata().tolist() == pytest.approx(rows.groupby("epoch")["value"].mean().tolist())


def test_sample_weights_say_what_share_went_to_noisy_labels(runs):
    figure = figures.sample_weights(runs)
    main = runs[1].samples[runs[1].samples["task"] == "is_8"]
    share = main[main.noisy].weight.sum() / main.weight.sum()
    assert f"{share:.0%} of the weight" in figure.axes[1].get_title(loc="left")
    assert "60% of labels" in figure.axes[1].get_title(loc="left")
    heights = sum(patch.get_height() for patch in figure.axes[1].patches)
    assert heights == pytest.approx(2)


def test_ranking_puts_the_lowest_loss_on_top(table):
    axis = figures.ranking({"noisy": table}, label="loss").axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()][-1] == table["mean"].idxmin()


def test_task_weights_are_shares(runs):
    axis = figures.task_weights({"a": runs[0], "b": runs[1]}, share_of="is_8").axes[0]
    assert axis.lines[0].get_ydata().tolist() == pytest.approx([0.1, 0.1])
    assert axis.lines[1].get_ydata().tolist() == pytest.approx([0.9, 0.9])


def test_saved_figures_are_the_same_bytes_every_time(runs, table, tmp_path):
    for folder in ("a", "b"):
        figures.save(figures.hero(runs[1], table, title="t"), tmp_path / folder, "hero")
    for name in ("hero.svg", "hero.png"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    figures.save(figures.curves({"": runs}), None, "nothing")


def test_every_method_has_one_look_and_unknown_ones_are_grey():
    looks = list(figures.LOOKS.values())
    assert len(set(looks)) == len(looks)
    assert figures.look("something else")[0] == figures.GREY


def test_images_show_inputs_with_their_labels():
    data = mtl.datasets.load("multi_digits")
    axes = figures.images(data.train, count=3, shape=(8, 8)).axes
    assert len(axes) == 3
    assert axes[2].images[0].get_array().tolist() == data.train.x[2].reshape(8, 8).tolist()
    assert axes[2].get_title() == f"{data.train.y['left'][2]} {data.train.y['right'][2]}"


def test_trajectories_draw_what_the_method_reported():
    data = mtl.datasets.load("multi_digits", n_train=200, n_meta=50, n_test=50)
    run = mtl.fit(mtl.models.mlp(data), data, mtl.AlphaVIL(), epochs=2, batch_size=100, seeds=2, device="cpu")
    axis = figures.trajectories([run], {"alpha": "α"}).axes[0]
    rows = run.frame[(run.frame.metric == "alpha") & (run.frame.task == "left")]
    assert axis.lines[0].get_ydata().tolist() == pytest.approx(rows.groupby("epoch")["value"].mean().tolist())
    assert axis.get_legend().get_texts()[0].get_text() == "left (main)"
