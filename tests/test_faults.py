"""What cannot be trained is refused in one sentence; what went wrong in training is said."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from test_training import model, small
from torch import nn

import mtlkit as mtl
from mtlkit.datasets import Split
from mtlkit.results import IncompleteRuns

OPTIONS = {"epochs": 1, "batch_size": 8, "device": "cpu"}


def spoilt(split, change, data=None):
    """The small problem with one split changed, past the checks of Dataset itself."""
    data = data or small()
    own = getattr(data, split)
    fresh = Split(own.x.clone(), {name: y.clone() for name, y in own.y.items()}, own.rows, own.noisy)
    data = replace(data, **{split: fresh}, redraw=None)
    change(fresh)
    return data


def set_x(value):
    return lambda split: split.x[0].fill_(value)


def set_main(value):
    return lambda split: split.y["main"].fill_(value)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"lr": -1}, ValueError, "lr is -1, expected a positive number"),
        ({"lr": math.nan}, ValueError, "lr is nan, expected a positive number"),
        ({"lr": math.inf}, ValueError, "lr is inf, expected a positive number"),
        ({"lr": 1e300}, ValueError, r"lr is 1e\+300, expected a number that torch\.float32 can hold"),
        ({"lr": "0.1"}, ValueError, "lr is '0.1', expected a positive number"),
        ({"clip": 0}, ValueError, "clip is 0, expected None or a positive number"),
        ({"clip": -1.0}, ValueError, r"clip is -1\.0, expected None or a positive number"),
        ({"clip": math.nan}, ValueError, "clip is nan, expected None or a positive number"),
        ({"epochs": 1.5}, TypeError, r"epochs is 1\.5, expected an integer"),
        ({"epochs": True}, TypeError, "epochs is True, expected an integer"),
        ({"batch_size": 8.0}, TypeError, r"batch_size is 8\.0, expected an integer"),
        ({"patience": "2"}, TypeError, "patience is '2', expected an integer"),
        ({"jobs": None}, TypeError, "jobs is None, expected an integer"),
        ({"seeds": 0}, ValueError, "seeds is 0, expected at least one"),
        ({"seeds": -3}, ValueError, "seeds is -3, expected at least one"),
        ({"seeds": True}, TypeError, "seeds is True, expected their number, or integers"),
        ({"seeds": 2.0}, TypeError, r"seeds is 2\.0, expected their number, or integers"),
        ({"seeds": "12"}, TypeError, "seeds is '12', expected their number, or integers"),
        ({"seeds": [0, 1.5]}, TypeError, r"seeds is \[0, 1\.5\], expected their number, or integers"),
        ({"seeds": None}, TypeError, "seeds is None, expected their number, or integers"),
        ({"seeds": [3, -1]}, ValueError, r"seeds are \[3, -1\], expected none below 0"),
        ({"dtype": torch.int64}, TypeError, r"dtype is torch\.int64, expected a floating-point one"),
        ({"device": "nowhere"}, ValueError, "device is 'nowhere', expected one that is there"),
        ({"name": 3}, TypeError, "name is 3, expected a text"),
        ({"watch": 3}, TypeError, "watch is 3, expected a function"),
        ({"model": nn.Linear(5, 1)}, TypeError, r"model is a Linear, expected an mtlkit\.models\.MultiTaskModel"),
        ({"data": "small"}, TypeError, r"data is a str, expected an mtlkit\.datasets\.Dataset"),
        ({"data": spoilt("train", set_x(math.nan))}, ValueError, "small, train split: inputs hold NaN or infinite"),
        ({"data": spoilt("meta", set_x(math.inf))}, ValueError, "small, meta split: inputs hold NaN or infinite"),
        ({"data": spoilt("test", set_x(-math.inf))}, ValueError, "small, test split: inputs hold NaN or infinite"),
        ({"data": spoilt("test", set_x(1e300))}, ValueError, r"inputs hold NaN or infinite values as torch\.float32"),
        (
            {"data": spoilt("meta", lambda split: split.y["near"].fill_(1e300))},
            ValueError,
            "small, meta split: target 'near' hold NaN or infinite values",
        ),
        ({"data": spoilt("meta", set_main(math.nan))}, ValueError, "no row of the meta split has a label of .* 'main'"),
        (
            {"data": spoilt("train", set_main(math.nan))},
            ValueError,
            "no row of the train split has a label of .*main",
        ),
    ],
)
def test_faults_are_named_before_training(change, error, message):
    data = small()
    arguments = {"model": model(data), "data": data, "weighting": mtl.Uniform(), **OPTIONS} | change
    with pytest.raises(error, match=message):
        mtl.fit(**arguments)


def test_a_main_task_with_one_class_in_training_is_said():
    data = spoilt("train", set_main(1.0))
    one_class = "all training labels of the main task 'main' are 1, expected at least two classes"
    with pytest.warns(UserWarning, match=one_class):
        mtl.fit(model(data), data, mtl.Uniform(), **OPTIONS)


def test_the_draw_of_every_seed_is_looked_at_before_it_is_trained_on():
    data = small()

    def draw(seed):
        return spoilt("meta", set_main(math.nan)) if seed == 2 else small(seed)

    with pytest.raises(ValueError, match="no row of the meta split has a label of the main task 'main'"):
        mtl.fit(model(data), replace(data, redraw=draw), mtl.Uniform(), **OPTIONS, seeds=3)


def test_targets_that_become_infinite_later_are_named_with_their_epoch():
    data = small()

    def train_at(epoch):
        return replace(data.train, y={**data.train.y, "near": data.train.y["near"] * 10.0 ** (39 * (epoch - 1))})

    with pytest.raises(ValueError, match="small, train split of epoch 2: target 'near' hold NaN or infinite values"):
        mtl.fit(model(data), replace(data, train_at=train_at, redraw=None), mtl.Uniform(), **{**OPTIONS, "epochs": 2})


def test_a_model_made_for_other_inputs_is_told_so():
    data = small()
    narrow = replace(data, **{where: replace(s, x=s.x[:, :3]) for where, s in data.splits.items()}, redraw=None)
    with pytest.raises(ValueError, match=r"the model cannot take inputs of shape \(N, 3\) of small, expected one made"):
        mtl.fit(model(data), narrow, mtl.Uniform(), **OPTIONS)
    images = replace(data, **{w: replace(s, x=s.x.view(-1, 1, 5, 1)) for w, s in data.splits.items()}, redraw=None)
    with pytest.raises(ValueError, match=r"cannot take inputs of shape \(N, 1, 5, 1\) of small"):
        mtl.fit(model(data), images, mtl.Uniform(), **OPTIONS)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_a_layer_without_width_is_told_so():
    data = small()
    with pytest.raises(ValueError, match=r"the model's trunk\.0\.weight has shape \(0, 5\), expected no width of 0"):
        mtl.fit(mtl.models.mlp(data, hidden=(0,)), data, mtl.Uniform(), **OPTIONS)


def test_outputs_that_do_not_fit_their_task_are_told_so():
    data = small()
    heads = {"main": nn.Linear(4, 1), "near": nn.Linear(4, 1), "far": nn.Linear(4, 2)}
    net = mtl.models.MultiTaskModel(nn.Linear(5, 4), heads)
    with pytest.raises(ValueError, match=r"task 'far': output has shape \(2, 2\), expected \(2, 3\)"):
        mtl.fit(net, data, mtl.Uniform(), **OPTIONS)


@pytest.mark.parametrize("n_classes", [3.0, "3", True])
def test_a_number_of_classes_is_an_integer(n_classes):
    with pytest.raises(TypeError, match=r"task 'a': n_classes is .*, expected an integer"):
        mtl.Task("a", "multiclass", n_classes=n_classes)
    assert mtl.Task("a", "multiclass", n_classes=np.int64(3)).n_outputs == 3


def test_a_share_of_flipped_labels_is_a_number():
    with pytest.raises(TypeError, match=r"task 'a': flip is '0\.1', expected a share from 0 to 1"):
        mtl.Task("a", "binary", flip="0.1")
    with pytest.raises(ValueError, match="flip is nan"):
        mtl.Task("a", "binary", flip=math.nan)


def test_one_name_is_not_a_list_of_letters():
    with pytest.raises(TypeError, match=r"names is 'main', expected a list of names such as \['main'\]"):
        small().only("main")
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(30, 4)), columns=["a", "b", "c", "d"])
    for what in ("auxiliaries", "categorical", "drop"):
        with pytest.raises(TypeError, match=rf"{what} is 'b', expected a list of names such as \['b'\]"):
            mtl.datasets.from_frame(frame, "a", **{what: "b"})


def diverging(bad=(1, 2)):
    data = small()

    def draw(seed):
        found = small(seed)
        return spoilt("train", lambda s: s.y["near"].mul_(1e200), found) if seed in bad else found

    return replace(data, redraw=draw)


DOUBLE = {"batch_size": 8, "dtype": torch.float64, "device": "cpu", "epochs": 2, "seeds": 4}


def test_a_diverged_seed_is_warned_of_once_at_the_end():
    data = diverging()
    expected = r"Uniform on small: 2 of 4 seeds diverged, .*: 1 \(epoch 0\), 2 \(epoch 0\); a lower lr or a clip may"
    with pytest.warns(IncompleteRuns, match=expected) as said:
        mtl.fit(model(data), data, mtl.Uniform(), chunk=1, **DOUBLE)
    assert len(said) == 1
    with pytest.warns(IncompleteRuns, match=r"SLGrad on small: 4 of 4 seeds diverged, .*\(epoch 1\)"):
        mtl.fit(model(small()), small(), mtl.SLGrad(), lr=1e200, **DOUBLE)


def test_nothing_is_said_of_runs_that_are_whole(recwarn):
    data = small()
    runs = [mtl.fit(model(data), data, w, **DOUBLE) for w in (mtl.Uniform(), mtl.SLGrad())]
    mtl.compare(runs)
    assert not [w for w in recwarn if issubclass(w.category, IncompleteRuns)]
    assert not runs[0].interrupted


def test_compare_says_how_many_pairs_it_leaves_out():
    data = diverging()
    with pytest.warns(IncompleteRuns):
        first, second = (mtl.fit(model(data), data, w, **DOUBLE) for w in (mtl.Uniform(), mtl.SLAW()))
    with pytest.warns(IncompleteRuns, match="2 of 4 pairs of SLAW and Uniform are left out: a seed"):
        table = mtl.compare([first, second])
    assert table["seeds"].tolist() == [2]
