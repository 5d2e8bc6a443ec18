import pytest
import torch

from mtlkit.datasets import load


def test_the_main_task_is_the_exclusive_or_of_two_halfspaces():
    data = load("layered", n_inputs=5, seed=3)
    x = torch.cat([s.x for s in data.splits.values()])
    y = {name: torch.cat([s.y[name] for s in data.splits.values()]) for name in ("same_side", "side_a", "side_b")}
    assert torch.equal(y["same_side"], (y["side_a"] == y["side_b"]).double())
    directions = []
    for side in ("side_a", "side_b"):
        centre = (x * (2 * y[side] - 1).unsqueeze(1)).mean(0)  # along the normal of a half-space, of a normal x
        direction = centre / centre.norm()
        directions.append(direction)
        assert ((x @ direction > 0) == y[side].bool()).double().mean() > 0.97
    assert abs(directions[0] @ directions[1]) < 0.1


def test_nothing_about_the_main_task_can_be_told_from_one_side():
    data = load("layered", n_test=20_000)
    same, side = data.test.y["same_side"], data.test.y["side_a"]
    assert abs(same.mean() - 0.5) < 0.02
    assert abs(same[side == 1].mean() - same[side == 0].mean()) < 0.02


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_inputs": 1}, "n_inputs is 1, expected at least 2"),
        ({"n_meta": 0}, "n_meta is 0 .* expected at least 1 each"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        load("layered", **options)
