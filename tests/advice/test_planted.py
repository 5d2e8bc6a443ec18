"""A helpful auxiliary, a useless one, a harmful one and wrong labels, put into a table on purpose."""

import numpy as np
import pandas as pd

import mtlkit as mtl


def planted(seed):
    """4,000 rows, 1,800 of them with a label of the main task, every fifth of which is wrong.

    The main label is the sign of a product of two directions; the helpful auxiliary is that product, known everywhere;
    the useless one an input; the harmful one a puzzle of 50 classes in all other directions.
    """
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(4000, 20))
    plane = np.linalg.qr(rng.normal(size=(20, 2)))[0]
    behind = (x @ plane).prod(1)
    known = rng.choice(4000, 1800, replace=False)
    wrong = np.zeros(4000, bool)
    wrong[known[:360]] = True
    frame = pd.DataFrame(x).add_prefix("x")
    label = (behind > 0) != wrong
    frame["main"] = np.where(np.isin(np.arange(4000), known), label.astype(float), np.nan)
    frame["helpful"] = behind + rng.normal(0, 0.1, 4000)
    frame["useless"] = x[:, -1] + rng.normal(0, 0.1, 4000)
    puzzle = rng.normal(size=(20, 50))
    puzzle -= plane @ (plane.T @ puzzle)
    frame["harmful"] = [f"k{k}" for k in (x @ puzzle).argmax(1)]
    return frame, wrong


def test_all_four_are_named_in_nine_of_ten_seeds(request):
    """With ``--thorough``; one seed, trained briefly, without."""
    seeds, effort = (range(10), "default") if request.config.getoption("--thorough") else ([0], "quick")
    named = []
    for seed in seeds:
        frame, wrong = planted(seed)
        advice = mtl.advise(frame, "main", ["helpful", "useless", "harmful"], effort=effort, jobs=1)
        suspects = wrong[advice.suspects.index[:20]].mean()
        named.append((*advice.which["verdict"], suspects > 0.6))
    right = [found == ("helps", "no difference", "hurts", True) for found in named]
    assert np.mean(right) >= 0.9, named
