"""A noise layer: training on flipped labels with a flip rate that is learned."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool
from torch import Tensor

from mtlkit.measure import Given, Learnable
from mtlkit.weighting._base import Weighting, equal_weights, safe_divide


@dataclass(frozen=True)
class NoiseLayer(Weighting):
    """Equal weights, where the training loss of a binary task takes the label to be flipped at a learned rate.

    objective: (1/T) Σ_t mean_b −log((1 − φ_t) p_bt + φ_t (1 − p_bt)),    p_bt = exp(−ℓ_bt),    φ_t = sigmoid(s_t)

    p_bt: probability of the label as recorded, by the model; φ_t: rate at which labels of task t are flipped,
    learned with the model. It is a layer between the model's probabilities and the recorded labels, the matrix
    (1 − φ, φ; φ, 1 − φ), that is there in training only: meta and test losses are those of p. The gradient with
    respect to the model is that of Σ w_bt ℓ_bt with the weights (B, T)

    w_bt = (1/(T n_t)) (1 − 2 φ_t) p_bt / ((1 − φ_t) p_bt + φ_t (1 − p_bt)),

    n_t the number of labels; they sum to 1 at most while φ ≤ 1/2, and are negative beyond it. What is left of the
    objective, and the slope of s, is the penalty. A task without a label in the batch leaves its s_t alone.

    Source: Sukhbaatar et al., *Training convolutional networks with noisy labels*, arXiv 1406.2080; with a known
    rate it is the forward correction of :class:`mtlkit.Task` (Patrini et al., arXiv 1609.03683). *Readings*: one
    rate a task for both classes; it is learned by the optimiser of the model and at its learning rate. The rate and
    1 − rate explain the labels equally well, with the outputs reversed: where the rate starts decides. A model that
    can fit every recorded label has no use for flips and drives the rate to 0 (the paper's regulariser against
    that is left out), so the rate is an estimate early in training only. Samples of several labels each (pixels)
    are taken for one label.

    Args:
        flip: rate at the start, between 0 and 1, not 1/2.
        auxiliaries: learn a rate for the binary auxiliaries as well, not for the main task alone. A task that is
            not binary has its plain loss in any case.

    Raises:
        ValueError: an option out of its range.

    >>> from mtlkit.measure import Signal
    >>> signal = Signal(
    ...     torch.tensor([[0.5], [0.1]]).log().neg(), torch.ones(2, 1, dtype=torch.bool),
    ...     binary=torch.tensor([True]), learned=torch.tensor([0.2]).logit(),
    ... )
    >>> w, _ = NoiseLayer(flip=0.2).update((), signal)
    >>> [round(v, 4) for v in w[:, 0].tolist()]  # 0.6 0.5/0.5 and 0.6 0.1/0.26, over 2
    [0.3, 0.1154]
    >>> objective = (w * signal.losses).sum() + NoiseLayer(flip=0.2).penalty(signal)
    >>> round(objective.item(), 4)  # (-ln 0.5 - ln 0.26) / 2
    1.0201
    """

    flip: float = 0.2
    auxiliaries: bool = False

    def __post_init__(self) -> None:
        if not (0 < self.flip < 1) or self.flip == 0.5:
            raise ValueError(f"flip is {self.flip!r}, expected a rate between 0 and 1 other than 1/2")

    @property
    def reads(self):
        return Learnable(math.log(self.flip / (1 - self.flip))), Given("binary")

    def update(self, state, signal):
        rate, p = signal.learned.detach().sigmoid(), signal.losses.neg().exp()
        corrected = (1 - 2 * rate) * safe_divide(p, (1 - rate) * p + rate * (1 - p))
        factor = torch.where(self._noisy(signal.binary), corrected, 1)
        return equal_weights(signal.losses, signal.present) * factor, state

    def penalty(self, signal):
        weights, _ = self.update((), signal)
        keep, flip = F.logsigmoid(-signal.learned), F.logsigmoid(signal.learned)
        other = (-torch.expm1(-signal.losses)).log()
        corrected = -torch.logaddexp(keep - signal.losses, flip + other)
        losses = torch.where(self._noisy(signal.binary), corrected, signal.losses)
        return (equal_weights(signal.losses, signal.present) * losses - weights * signal.losses).sum()

    def _noisy(self, binary: Bool[Tensor, " tasks"]) -> Bool[Tensor, " tasks"]:
        main = torch.arange(binary.shape[-1], device=binary.device) == 0
        return binary if self.auxiliaries else binary & main
