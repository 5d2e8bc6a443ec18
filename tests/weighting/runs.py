"""Several steps through ``mtlkit.weighting.step``, with plain gradient descent in between."""

import torch
from methods import begin
from networks import LR, at_step, initial

from mtlkit.step import step


def fast_run(weighting, networks, n_steps, stacked=True):
    """Per step: the outcome, gradients by name ((S, *) if stacked), and those of what is learned."""
    parameters = initial(networks, stacked)
    dtype = next(iter(parameters.values())).dtype
    state, learned = begin(weighting, len(networks[0].tasks), len(networks) if stacked else None, dtype)
    for k in range(n_steps):
        problem, given = at_step(weighting, networks, k, parameters, learned, k // 2, stacked)
        taken = step(weighting, problem, state, **given)
        state = taken.state
        leaves = [*parameters.values(), *([] if learned is None else [learned])]
        found = torch.autograd.grad(taken.objective.sum(), leaves, materialize_grads=True)
        gradients = dict(zip(parameters, found, strict=False))
        yield taken, gradients, None if learned is None else found[-1]
        parameters = {n: (p - LR * gradients[n]).detach().requires_grad_() for n, p in parameters.items()}
        learned = None if learned is None else (learned - LR * found[-1]).detach().requires_grad_()


def flat(gradients):
    """All gradients of a run as one vector."""
    return torch.cat([gradients[name].flatten() for name in gradients])


def assert_close(found, expected, tolerance=1e-8):
    """Relative error of the whole tensor."""
    error = (found - expected).norm() / max(expected.norm().item(), 1e-12)
    assert error < tolerance, f"relative error {error:.1e}"
