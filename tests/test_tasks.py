import math

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from mtlkit.tasks import (
    Task,
    check_tasks,
    labelled_by_task,
    lower_is_better,
    pack,
    per_sample_losses,
    separate_losses,
    taken_for,
)

A, B, C, D = Task("a", "regression"), Task("b", "binary"), Task("c", "multiclass", 3), Task("d", "binary")


def by_hand(task, output, target):
    """The loss of one sample, written out; None where the label is missing."""
    if (isinstance(target, float) and math.isnan(target)) or target == -1:
        return None
    if task.kind == "regression":
        return (output - target) ** 2
    if task.kind == "binary":
        p = 1 / (1 + math.exp(-output))
        return -math.log(p if target == 1 else 1 - p)
    return math.log(sum(math.exp(o) for o in output)) - output[int(target)]


def a_batch(n, seed, missing=0.3):
    g = torch.Generator().manual_seed(seed)
    outputs = {
        "a": torch.randn(n, generator=g, dtype=torch.float64),
        "b": torch.randn(n, 1, generator=g, dtype=torch.float64),
        "c": torch.randn(n, 3, generator=g, dtype=torch.float64),
        "d": torch.randn(n, generator=g, dtype=torch.float64),
    }
    gone = torch.rand(4, n, generator=g) < missing
    targets = {
        "a": torch.randn(n, generator=g, dtype=torch.float64).masked_fill(gone[0], math.nan),
        "b": torch.randint(2, (n,), generator=g).double().masked_fill(gone[1], math.nan),
        "c": torch.randint(3, (n,), generator=g).masked_fill(gone[2], -1),
        "d": torch.randint(2, (n,), generator=g).masked_fill(gone[3], -1),
    }
    return outputs, targets


@settings(derandomize=True, max_examples=25, deadline=None)
@given(n=st.integers(1, 9), seed=st.integers(0, 999), order=st.permutations([A, B, C, D]))
def test_losses_and_labels_equal_the_written_out_formula(n, seed, order):
    outputs, targets = a_batch(n, seed)
    packed = pack(order, targets)
    losses, present = per_sample_losses(order, outputs, packed), labelled_by_task(order, packed)
    for t, task in enumerate(order):
        for b in range(n):
            expected = by_hand(task, outputs[task.name][b].squeeze().tolist(), targets[task.name][b].item())
            assert present[b, t].item() == (expected is not None)
            assert losses[b, t].item() == pytest.approx(expected or 0.0, rel=1e-12, abs=1e-15)


def test_a_missing_label_has_no_gradient():
    outputs, targets = a_batch(6, 3, missing=1.0)
    leaves = {name: output.requires_grad_() for name, output in outputs.items()}
    per_sample_losses([A, B, C, D], leaves, pack([A, B, C, D], targets)).sum().backward()
    assert all((leaf.grad == 0).all() for leaf in leaves.values())


def test_pixels_are_averaged_over_the_observed_ones():
    depth, parts = Task("depth", "regression"), Task("parts", "multiclass", 2)
    targets = {"depth": torch.tensor([[1.0, math.nan], [math.nan, math.nan]]), "parts": torch.tensor([[0, -1], [1, 1]])}
    outputs = {"depth": torch.zeros(2, 1, 2), "parts": torch.zeros(2, 2, 2)}
    packed = pack([depth, parts], targets)
    assert labelled_by_task([depth, parts], packed).tolist() == [[True, True], [False, True]]
    expected = torch.tensor([[1.0, math.log(2)], [0.0, math.log(2)]])
    torch.testing.assert_close(per_sample_losses([depth, parts], outputs, packed), expected)


@pytest.mark.parametrize(
    ("task", "target", "message"),
    [
        (A, torch.zeros(3), "expected 4 rows"),
        (A, torch.zeros(4, 1), r"expected \(4,\)"),
        (A, torch.full((4,), torch.inf), "infinite"),
        (B, torch.full((4,), 2.0), "holds 2, expected integer classes 0 to 1"),
        (B, torch.full((4,), 0.5), r"holds 0\.5"),
        (C, torch.tensor([0, 1, 2, 3]), "holds 3, expected integer classes 0 to 2"),
        (C, torch.tensor([0, 1, 2, -2]), "holds -2"),
    ],
)
def test_check_refuses_what_is_no_label(task, target, message):
    with pytest.raises(ValueError, match=message) as caught:
        task.check(target, 4)
    assert repr(task.name) in str(caught.value)


def test_check_refuses_other_types_and_takes_missing_labels():
    with pytest.raises(TypeError, match=r"task 'c': target is torch\.float32"):
        C.check(torch.zeros(4), 4)
    with pytest.raises(TypeError, match=r"expected a torch\.Tensor"):
        A.check([1.0], 1)
    _, targets = a_batch(8, 0, missing=0.5)
    for task in (A, B, C, D):
        task.check(targets[task.name], 8)


def test_names_of_outputs_and_targets_must_match():
    with pytest.raises(ValueError, match="task 'a': no target of that name, found 'b'"):
        pack([A], {"b": torch.zeros(2)})
    packed = pack([A], {"a": torch.zeros(2)})
    with pytest.raises(ValueError, match="task 'a': no output of that name, found 'b'"):
        per_sample_losses([A], {"b": torch.zeros(2)}, packed)
    with pytest.raises(ValueError, match=r"task 'a': output has shape \(2, 2\), expected \(2,\)"):
        per_sample_losses([A], {"a": torch.zeros(2, 2)}, packed)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("t", "ranking"), "expected one of regression, binary, multiclass"),
        (("t", "multiclass"), "at least 2"),
        (("t", "multiclass", 1), "at least 2"),
        (("t", "binary", 2), "takes none"),
        (("t", "binary", None, -0.1), "flip is -0.1, expected a share from 0 to 1"),
        (("t", "binary", None, 1.1), "flip is 1.1, expected a share from 0 to 1"),
        (("t", "binary", None, math.nan), "flip is nan, expected a share from 0 to 1"),
        (("t", "regression", None, 0.3), "flip is 0.3, but only a binary task takes one"),
        (("t", "multiclass", 3, 0.3), "flip is 0.3, but only a binary task takes one"),
    ],
)
def test_a_task_checks_itself(arguments, message):
    with pytest.raises(ValueError, match=message):
        Task(*arguments)


def test_tasks_need_names_of_their_own():
    with pytest.raises(ValueError, match="each with its own name"):
        check_tasks([A, A])
    with pytest.raises(ValueError, match="at least one"):
        check_tasks([])


def test_metrics_on_cases_worked_out_by_hand():
    found = B.metrics(torch.tensor([2.0, -1.0, 1.0, -3.0]), torch.tensor([1.0, 0.0, 0.0, math.nan]))
    assert found == pytest.approx({"roc_auc": 1.0, "average_precision": 1.0, "accuracy": 2 / 3})
    found = A.metrics(torch.tensor([1.0, 2.0, 9.0]), torch.tensor([0.0, 4.0, math.nan]))
    assert found == pytest.approx({"rmse": math.sqrt(2.5), "mae": 1.5, "r2": 1 - 5 / 8})
    assert C.metrics(torch.eye(3), torch.tensor([0, 2, -1])) == {"accuracy": 0.5}


def test_an_undefined_metric_is_nan():
    found = B.metrics(torch.tensor([2.0, -1.0]), torch.tensor([1.0, 1.0]))
    assert math.isnan(found["roc_auc"])
    assert math.isnan(found["average_precision"])
    assert all(math.isnan(v) for v in A.metrics(torch.zeros(2), torch.full((2,), math.nan)).values())
    assert math.isnan(C.metrics(torch.full((2, 3), math.nan), torch.tensor([0, 1]))["accuracy"])
    assert all(math.isnan(v) for v in A.metrics(torch.full((2,), torch.inf), torch.zeros(2)).values())


def test_separate_losses_are_the_columns_and_leave_other_outputs_alone():
    tasks = (Task("a", "binary"), Task("b", "multiclass", 3), Task("c", "binary"))
    targets = pack(
        tasks, {"a": torch.tensor([0.0, math.nan]), "b": torch.tensor([2, 1]), "c": torch.tensor([1.0, 0.0])}
    )
    outputs = {task.name: torch.randn(2, task.n_outputs, dtype=torch.float64, requires_grad=True) for task in tasks}
    found = separate_losses(tasks, outputs, targets)
    torch.testing.assert_close(torch.stack(found, 1), per_sample_losses(tasks, outputs, targets))
    for task, losses in zip(tasks, found, strict=True):
        gradients = torch.autograd.grad(losses.sum(), list(outputs.values()), allow_unused=True)
        assert [g is not None for g in gradients] == [name == task.name for name in outputs]


FLIPS = {"f0": 0.0, "f2": 0.2, "f6": 0.6, "g6": 0.6, "f10": 1.0}


def flipped_batch(n=12, missing=0.2):
    """Binary tasks of several flip rates around a regression, with missing labels."""
    g = torch.Generator().manual_seed(5)
    tasks = [Task(name, "binary", flip=flip) for name, flip in FLIPS.items()]
    tasks.insert(2, Task("price", "regression"))
    outputs = {task.name: 3 * torch.randn(n, 1, generator=g, dtype=torch.float64) for task in tasks}
    targets = {task.name: torch.randint(2, (n,), generator=g).double() for task in tasks}
    targets = {k: v.masked_fill(torch.rand(n, generator=g) < missing, math.nan) for k, v in targets.items()}
    targets["g6"] = targets["g6"].nan_to_num(-1).long()
    return tasks, outputs, targets


def test_training_losses_are_of_the_recorded_label_and_others_of_the_true_one():
    tasks, outputs, targets = flipped_batch()
    packed = pack(tasks, targets)
    corrected, plain = (per_sample_losses(tasks, outputs, packed, training=t) for t in (True, False))
    assert torch.equal(per_sample_losses(tasks, outputs, packed), plain)
    differ = 0
    for t, task in enumerate(tasks):
        for b in range(12):
            output, label = outputs[task.name][b].item(), targets[task.name][b].item()
            expected = usual = by_hand(task, output, label)
            if usual is not None and task.kind == "binary":
                p = 1 / (1 + math.exp(-output))
                mixed = (1 - task.flip) * p + task.flip * (1 - p)
                expected = -math.log(mixed if label == 1 else 1 - mixed)
                differ += abs(expected - usual) > 1e-3
            assert corrected[b, t].item() == pytest.approx(expected or 0.0, rel=1e-12, abs=1e-15)
            assert plain[b, t].item() == pytest.approx(usual or 0.0, rel=1e-12, abs=1e-15)
    assert differ > 20
    apart = separate_losses(tasks, outputs, packed, training=True)
    assert torch.equal(torch.stack(apart, 1), corrected)
    assert torch.equal(torch.stack(separate_losses(tasks, outputs, packed), 1), plain)


def of_one(flip, output, target):
    task = Task("t", "binary", flip=flip)
    return per_sample_losses([task], {"t": output}, pack([task], {"t": target}), training=True)[:, 0]


def test_a_flip_of_none_is_the_plain_loss_and_of_all_that_of_the_other_label():
    output = torch.randn(50, generator=torch.Generator().manual_seed(0)) * 5
    label = (torch.arange(50) % 2).float()
    assert torch.equal(of_one(0.0, output, label), F.binary_cross_entropy_with_logits(output, label, reduction="none"))
    assert torch.equal(of_one(1.0, output, label), of_one(0.0, output, 1 - label))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_corrected_losses_of_huge_outputs_are_the_limits(dtype):
    output = torch.tensor([3e4, -3e4, 3e4, -3e4], dtype=dtype, requires_grad=True)
    losses = of_one(0.2, output, torch.tensor([1, 1, 0, 0]))
    right, wrong = -math.log(0.8), -math.log(0.2)
    torch.testing.assert_close(losses.detach(), torch.tensor([right, wrong, wrong, right], dtype=dtype))
    slope = torch.autograd.grad(losses.sum(), output, create_graph=True)[0]
    assert torch.equal(slope.detach(), torch.zeros(4, dtype=dtype))
    assert torch.autograd.grad(slope.sum(), output)[0].isfinite().all()


@pytest.mark.parametrize("flip", [0.2, 0.6, 1.0])
def test_corrected_losses_have_right_gradients_forward_and_twice(flip):
    output = torch.tensor([-2.0, -0.3, 0.4, 3.0], dtype=torch.float64, requires_grad=True)
    label = torch.tensor([1, 0, 1, 0])
    assert torch.autograd.gradcheck(lambda o: of_one(flip, o, label), output, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(lambda o: of_one(flip, o, label), output)


def test_labels_flipped_half_of_the_time_carry_no_information():
    output = torch.linspace(-6, 6, 12, dtype=torch.float64, requires_grad=True)
    losses = of_one(0.5, output, torch.arange(12) % 2)
    torch.testing.assert_close(losses.detach(), torch.full((12,), math.log(2), dtype=torch.float64))
    slope = torch.autograd.grad(losses.sum(), output)[0]
    assert slope.abs().max() < 1e-15


@pytest.mark.parametrize(
    ("values", "kind", "why"),
    [
        (["no", "yes", None], "binary", "two values"),
        ([3.5, 7.0, 3.5], "binary", "two values"),
        ([True, False], "binary", "two values"),
        ([0, 1, 2], "multiclass", "the whole numbers 0 to 2"),
        ([1.0, 3.0, 2.0, np.nan], "multiclass", "the whole numbers 1 to 3"),
        ([-1, 0, 1], "multiclass", "the whole numbers -1 to 1"),
        (range(10), "multiclass", "the whole numbers 0 to 9"),
        (range(11), "regression", "numbers, 11 values"),
        ([0, 1, 3], "regression", "numbers, 3 values"),
        ([2, 3, 4], "regression", "numbers, 3 values"),
        ([0.5, 1.0, 1.5], "regression", "numbers, 3 values"),
        ([1, 1], "regression", "numbers, 1 values"),
        (["a", "b", "c"], "multiclass", "text, 3 values"),
    ],
)
def test_what_a_column_is_taken_for(values, kind, why):
    assert taken_for(pd.Series(values)) == (kind, why)


def test_which_way_is_better_is_known_of_every_metric_that_is_measured():
    better = {"loss": True, "rmse": True, "mae": True, "r2": False, "roc_auc": False, "average_precision": False}
    better["accuracy"] = False
    for metric, lower in better.items():
        assert lower_is_better(metric) == lower
    tasks = [Task("t", "regression"), Task("t", "binary"), Task("t", "multiclass", n_classes=2)]
    measured = [task.metrics(torch.zeros(2, task.n_outputs), torch.tensor([0, 1])) for task in tasks]
    assert {"loss"}.union(*measured) == better.keys()
    with pytest.raises(ValueError, match="metric is 'f1', expected one of loss, rmse"):
        lower_is_better("f1")
