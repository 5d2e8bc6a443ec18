"""Every weighting with what its documentation promises."""

from dataclasses import dataclass

import torch
from torchjd import aggregation

import mtlkit as mtl
from mtlkit.weighting import Weighting


def worst_error(output, target):
    """A metric that has no useful gradient: how many outputs are off by more than one half."""
    assert output.ndim == target.ndim + 1
    assert not target.isnan().any()
    return float(((output.squeeze(1) - target).abs() > 0.5).double().mean())


@dataclass(frozen=True)
class Method:
    make: object
    total: str = "one"  # "one", "one or zero", "at most one", "free"
    negative: bool = False
    duplicates: bool = True  # weights stay the same when every sample is there twice
    symmetric: bool = True  # permuting the auxiliaries permutes the weights
    any_tasks: bool = True

    def __call__(self, n_tasks) -> Weighting:
        return self.make(n_tasks)


def _torchjd(make, **promises):
    return Method(lambda n: mtl.Gramian(make()), **promises)


METHODS = {
    "Uniform": Method(lambda n: mtl.Uniform()),
    "Fixed": Method(lambda n: mtl.Fixed([0.5] + [0.25] * (n - 1)), "free"),
    "RandomWeighting": Method(lambda n: mtl.RandomWeighting()),
    "Uncertainty": Method(lambda n: mtl.Uncertainty(), "free"),
    "Uncertainty, paper": Method(lambda n: mtl.Uncertainty(paper_scale=True), "free"),
    "RevisedUncertainty": Method(lambda n: mtl.RevisedUncertainty(), "free"),
    "DWA": Method(lambda n: mtl.DWA()),
    "DWA, paper": Method(lambda n: mtl.DWA(temperature=0.5, paper_scale=True), "T"),
    "AdaptiveWeights": Method(lambda n: mtl.AdaptiveWeights(), "one or zero"),
    "SLAW": Method(lambda n: mtl.SLAW(), "one or zero"),
    "SLAW, paper": Method(lambda n: mtl.SLAW(beta=0.5, eps=0.3, paper_scale=True), "T or zero"),
    "LogSE": Method(lambda n: mtl.LogSE(), "one or zero"),
    "LogSE, paper": Method(lambda n: mtl.LogSE(paper_scale=True), "free", duplicates=False),
    "GradNorm": Method(lambda n: mtl.GradNorm()),
    "GradNorm, paper": Method(lambda n: mtl.GradNorm(alpha=0.7, lr=0.3, paper_scale=True), "T"),
    "GradientCosine": Method(lambda n: mtl.GradientCosine(), "at most one"),
    "GradientCosine, weighted": Method(lambda n: mtl.GradientCosine(weighted=True), "at most one"),
    "GradientCosine, meta": Method(lambda n: mtl.GradientCosine(on="meta"), "at most one"),
    "GradientCosine, meta weighted": Method(lambda n: mtl.GradientCosine(weighted=True, on="meta"), "at most one"),
    "OLAux": Method(lambda n: mtl.OLAux(every=2, beta=5.0), "free", negative=True),
    "OLAux, paper": Method(lambda n: mtl.OLAux(every=3, beta=50.0, paper_scale=True), "free", negative=True),
    "MetaTartan": Method(lambda n: mtl.MetaTartan(beta=0.5)),
    "HydaLearn": Method(lambda n: mtl.HydaLearn()),
    "HydaLearn, batch": Method(lambda n: mtl.HydaLearn(on="batch", step=0.5)),
    "HydaLearn, metric": Method(lambda n: mtl.HydaLearn(step=2.0, metric=worst_error)),
    "SLGrad": Method(lambda n: mtl.SLGrad(), "one or zero"),
    "SLGrad, look-ahead": Method(lambda n: mtl.SLGrad(lookahead=0.3), "one or zero"),
    "MetaWeightNet": Method(lambda n: mtl.MetaWeightNet(hidden=7), "at most one"),
    "MetaWeightNet, no look-ahead": Method(lambda n: mtl.MetaWeightNet(hidden=7, lr=0.5, lookahead=0.0), "at most one"),
    "AuxiLearn": Method(lambda n: mtl.AuxiLearn(every=2, lr=0.3), "free"),
    "AuxiLearn, network": Method(lambda n: mtl.AuxiLearn(hidden=5, every=1, lr=0.3, paper_scale=True), "free"),
    "ARML": Method(lambda n: mtl.ARML(lr=3.0)),
    "ARML, paper": Method(lambda n: mtl.ARML(paper_scale=True), "T"),
    "NoiseLayer": Method(lambda n: mtl.NoiseLayer(), "at most one"),
    "NoiseLayer, auxiliaries": Method(lambda n: mtl.NoiseLayer(flip=0.6, auxiliaries=True), "free", negative=True),
    "OrthogonalGradients": Method(lambda n: mtl.OrthogonalGradients(strength=0.3)),
    "MGDA": _torchjd(aggregation.MGDAWeighting),
    "PCGrad": _torchjd(aggregation.PCGradWeighting, total="free", symmetric=False),
    "CAGrad": _torchjd(lambda: aggregation.CAGradWeighting(c=0.5), total="free"),
    "UPGrad": _torchjd(aggregation.UPGradWeighting, total="free"),
    "IMTL-G": _torchjd(aggregation.IMTLGWeighting, total="free", negative=True),
    "Aligned-MTL": _torchjd(aggregation.AlignedMTLWeighting, total="free", negative=True),
}


def begin(weighting, n_tasks, seeds=None, dtype=torch.float64):
    """Initial state and learned values, with a leading seed axis where ``seeds`` is a number."""
    like = torch.zeros((), dtype=dtype)
    state, learned = weighting.init(n_tasks, like), weighting.learn(n_tasks, like)
    if seeds is not None:
        state = torch.utils._pytree.tree_map(lambda t: t.expand(seeds, *t.shape), state)
        learned = None if learned is None else learned.expand(seeds, -1)
    return state, None if learned is None else learned.clone().requires_grad_()
