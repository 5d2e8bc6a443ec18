"""Peak memory against allocations of known size."""

import pytest
import torch
from torch import nn

from mtlkit.memory import peak_memory

MIB = 2**20


def mib(size):
    return torch.empty(size * MIB // 4)


def test_nothing():
    kept = mib(8)
    assert peak_memory(lambda: kept.view(-1)) == 0


def test_what_lives_at_the_same_time_adds_up():
    def call():
        first, second = mib(4), mib(8)
        del first
        third = mib(3)
        return second, third

    assert peak_memory(call) == 12 * MIB


def test_what_is_freed_is_used_again():
    def call():
        for _ in range(5):
            mib(2)

    assert peak_memory(call) == 2 * MIB


def test_what_was_alive_before_does_not_count():
    kept = [mib(16)]

    def call():
        kept.clear()
        kept.append(mib(1))

    assert peak_memory(call) == MIB


def test_saved_activations_and_gradients_count():
    """Tape of a chain of sines: every input is saved, and freed as its gradient is made."""
    x = torch.zeros(MIB // 4, requires_grad=True)

    def forward():
        y = x
        for _ in range(6):
            y = y.sin()
        return y.sum()

    with torch.no_grad():
        assert peak_memory(forward) == pytest.approx(2 * MIB, rel=1e-3)
    assert peak_memory(forward) == pytest.approx(6 * MIB, rel=1e-3)
    # The last sine's output is saved by nothing; a backward pass holds cosine, product and gradient at once.
    assert 6 * MIB < peak_memory(lambda: forward().backward()) <= 9 * MIB


def test_a_linear_layer():
    layer, x = nn.Linear(256, 1024), torch.zeros(512, 256)
    with torch.no_grad():
        assert peak_memory(lambda: layer(x)) == 512 * 1024 * 4
    assert x.grad is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_gpu():
    def call():
        first = torch.empty(4 * MIB, device="cuda")
        second = torch.empty(8 * MIB, device="cuda")
        return first, second

    assert peak_memory(call, "cuda") == 48 * MIB
