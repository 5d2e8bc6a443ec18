import functools

from companion import speed

import mtlkit as mtl


def test_every_way_to_the_alignment_is_timed_on_equal_results():
    table = speed.cost_of_ways(functools.partial(speed.toy, width=8), speed.random_data(2, n_train=40), 8, 1, 8)
    assert (table > 0).all(axis=None)


def test_what_is_timed_runs():
    data, images = speed.random_data(2, n_train=40), speed.images(2, n_train=16)
    calls = {
        "plain": speed.plain_step(speed.toy(data, 8), data, 8),
        "weighted": speed.weighted_step(speed.toy(data, 8), data, 8, mtl.SLGrad(), 8),
        "passes": speed.passes(speed.small_lenet(images), images, 4, 4, "SLGrad"),
        "branches": speed.branch_training(2, True, 2),
        "loop": speed.plain_loop(2, 2),
        "fit": speed.steps_of_fit(mtl.SLGrad(), 2, "cpu", 2, False),
    }
    assert set(speed.seconds(calls, 1)) == set(calls)
    assert set(speed.seconds_per_step({"Uniform": mtl.Uniform()}, data, 1, 2, 1)) == {"Uniform"}
