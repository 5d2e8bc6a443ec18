"""The checks of shapes can fail, and are there in tests only."""

import subprocess
import sys

import pytest
import torch
from axes import misfits
from jaxtyping import TypeCheckError

from mtlkit.gradients import mean_losses
from mtlkit.measure import Signal
from mtlkit.merging import error_rate
from mtlkit.tasks import Task, labelled_by_task, per_sample_losses
from mtlkit.weighting import per_sample

LABELS = torch.ones(3, 2, dtype=torch.bool)
WRONG = {
    "another batch": (mean_losses, torch.zeros(4, 2), LABELS),
    "other tasks": (per_sample, torch.zeros(3), LABELS),
    "another number of seeds": (mean_losses, torch.zeros(2, 3, 2), LABELS.expand(3, 3, 2)),
    "numbers for labels": (mean_losses, torch.zeros(3, 2), torch.ones(3, 2)),
    "targets without an axis of tasks": (labelled_by_task, [Task("a", "binary")], {("a",): torch.zeros(3)}),
    "another number of targets": (error_rate, torch.zeros(3), torch.zeros(2)),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_shapes_are_refused(name):
    function, *arguments = WRONG[name]
    with pytest.raises(TypeCheckError, match=function.__name__):
        function(*arguments)


def test_what_a_function_refuses_itself_is_left_to_it():
    with pytest.raises(TypeError, match="output is a list"):
        per_sample_losses([Task("a", "binary")], {"a": [0.0]}, {("a",): torch.zeros(1, 1)})


def test_fields_that_do_not_fit_each_other_are_named():
    signal = Signal(torch.zeros(3, 2), LABELS, gramian=torch.zeros(2, 2))
    assert misfits(signal) == []
    assert misfits(signal._replace(gramian=torch.zeros(2, 3))) == ["Signal.gramian"]
    assert misfits(signal._replace(present=LABELS[:2], lr=torch.zeros(2))) == ["Signal.present", "Signal.lr"]


def test_nothing_is_checked_outside_of_tests():
    code = "from mtlkit.gradients import mean_losses; print(hasattr(mean_losses, '__wrapped__'))"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.split() == ["False"]
    assert hasattr(mean_losses, "__wrapped__")
