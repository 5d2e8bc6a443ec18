"""Every method in a row: for the front page and the guide to the methods. Equations stand in the docstrings alone."""

from __future__ import annotations

import inspect
import itertools
import re
from dataclasses import dataclass, replace

import pandas as pd
from torchjd import aggregation as torchjd

import mtlkit as mtl
from mtlkit.merging import Merging
from mtlkit.weighting import Weighting


@dataclass(frozen=True)
class Method:
    """What a reader compares methods by.

    Attributes:
        name: in :mod:`mtlkit` or :mod:`mtlkit.models`.
        options: as they are written in a call.
        level: what has a weight: a task, a sample, or an epoch's branches; or the model.
        reads: what is measured for it.
        cost: over plain training, per step unless said.
        paper: where it comes from.
        note: what it is called besides, or what it includes.
        documented: names of the objects whose docstrings describe it; its own name when empty.
    """

    name: str
    options: str
    level: str
    reads: str
    cost: str
    paper: str
    note: str = ""
    documented: tuple[str, ...] = ()


METHODS = (
    Method("Uniform", "", "task", "nothing", "none", ""),
    Method("Fixed", "weights", "task", "nothing", "none", ""),
    Method("RandomWeighting", "", "task", "noise", "none", "2111.10603"),
    Method("Uncertainty", "", "task", "what it learns", "none", "1705.07115"),
    Method("RevisedUncertainty", "", "task", "what it learns", "none", "1805.06334"),
    Method("DWA", "temperature", "task", "losses of two epochs", "none", "1803.10704"),
    Method("AdaptiveWeights", "", "task", "losses", "none", "2303.07278"),
    Method("SLAW", "beta", "task", "losses", "none", "2109.08218"),
    Method("LogSE", "", "task", "losses", "none", "JUCS 28(2)"),
    Method("GradNorm", "alpha, lr", "task", "norms at the last shared layer", "T short backward passes", "1711.02257"),
    Method("GradientCosine", "weighted, on", "task", "Gramian", "T backward passes", "1812.02224"),
    Method("ARML", "lr", "task", "Gramian", "T backward passes", "2010.08244"),
    Method("OLAux", "every, beta", "task", "Gramian", "T backward passes", "NeurIPS 2019"),
    Method("MetaTartan", "beta", "task", "Gramian, meta gradient", "T backward passes, a meta pass", "2109.07437"),
    Method(
        "Gramian", "weighting", "task", "Gramian", "T backward passes, a solver", "TorchJD",
        "MGDA, PCGrad, CAGrad, IMTL-G, UPGrad, ...",
    ),
    Method("OrthogonalGradients", "strength", "task", "Gramian", "T + 1 passes, second order", "1912.06844"),
    Method(
        "HydaLearn", "step, on, metric", "task", "gains of T fake steps",
        "T backward passes, T + 1 meta forward passes", "2008.11643",
    ),
    Method("AuxiLearn", "hidden, every", "task", "implicit gradient", "second order, every 10th step", "2007.02693"),
    Method(
        "SLGrad", "lookahead", "sample", "alignment with a meta gradient", "a meta pass, a forward-mode product",
        "2306.04519", "alone learning to reweight, 1803.09050",
    ),
    Method(
        "MetaWeightNet", "hidden, lr", "sample", "losses, alignment", "as SLGrad, with a look-ahead step", "1902.07379"
    ),
    Method(
        "NoiseLayer", "flip", "sample", "what it learns", "none", "1406.2080",
        "a known rate is `Task(flip=...)`, 1609.03683",
    ),
    Method("AlphaVIL", "rho", "epoch", "meta loss of merges", "T branches an epoch", "2405.07769"),
    Method("DIW", "rho", "epoch", "meta metric of merges", "T branches an epoch", "2405.07769"),
    Method("ForkMerge", "top_k", "epoch", "meta metric of merges", "T branches an epoch", "2301.12618"),
)  # fmt: skip
"""Weightings by what they read, then the methods that fork, train and merge."""
ARCHITECTURES = (
    Method("LowLevel", "stages", "model", "a task's loss trains the layers up to its own", "less", "ACL 2016"),
    Method(
        "routed", "share", "model", "a task keeps a drawn share of the units", "a pass per task", "1903.12117",
        documented=("Routed", "routed"),
    ),
    Method(
        "multi_backbone", "backbones", "model", "every head sees all trunks", "K trunks", "IEEE Access",
        "MBMT-Net", ("MultiBackbone", "multi_backbone"),
    ),
    Method("taps", "threshold", "model", "a task changes the layers it needs", "a pass per task", "2203.16708"),
)  # fmt: skip
"""Models of the papers, in :mod:`mtlkit.models`; they take every weighting."""


def weightings(*names: str) -> dict[str, Weighting | Merging]:
    """Name to weighting, as the studies use it: those named, in this order, or all but variants."""
    found = {}
    for method in METHODS:
        if method.name == "Gramian":
            found |= {name: mtl.Gramian(weighting) for name, weighting in GRAMIANS.items()}
        else:
            found[method.name] = getattr(mtl, method.name)(*([[0.5, 0.5, 0]] if method.name == "Fixed" else []))
    return {name: (found | VARIANTS)[name] for name in names or found}


GRAMIANS = {
    "PCGrad": torchjd.PCGradWeighting(),
    "CAGrad": torchjd.CAGradWeighting(c=0.5),
    "MGDA": torchjd.MGDAWeighting(),
    "IMTL-G": torchjd.IMTLGWeighting(),
    "Aligned-MTL": torchjd.AlignedMTLWeighting(),
    "UPGrad": torchjd.UPGradWeighting(),
}
"""Name to what :class:`mtlkit.Gramian` takes for it."""
VARIANTS = {
    "AuxiLearn, perceptron": mtl.AuxiLearn(hidden=5),
    "GradientCosine, meta": mtl.GradientCosine(on="meta"),
    "GradientCosine, weighted": mtl.GradientCosine(weighted=True),
    "SLGrad, look-ahead": mtl.SLGrad(0.01),
}
"""Second forms of methods, which studies name beside the first."""


def cited(paper: str) -> str:
    """A paper as a link where it is on arXiv."""
    number = re.fullmatch(r"\d{4}\.\d{4,5}", paper)
    return f"[{paper}](https://arxiv.org/abs/{paper})" if number else paper


def listing(rows: tuple[Method, ...] = METHODS + ARCHITECTURES) -> pd.DataFrame:
    """A line per method: name, level, reads, cost, paper."""
    return pd.DataFrame(
        {
            "method": f"`{row.name}`" + (f": {row.note}" if row.note else ""),
            "level": row.level,
            "reads": row.reads,
            "extra cost": row.cost.replace("none", ""),
            "paper": row.paper,
        }
        for row in rows
    ).set_index("method")


@dataclass(frozen=True)
class Described:
    """A docstring in its parts.

    Attributes:
        says: its first paragraph.
        equations: lines of the equation, as they stand.
        symbols: what they mean, and what else is to be known.
        source: the paper, readings and deviations.
    """

    says: str
    equations: list[str]
    symbols: str
    source: str


def explained(method: Method) -> Described:
    """The parts of a method's docstring: its first sentence, equation, symbols, source."""
    parts = [_parts(_documented(name)) for name in method.documented or (method.name,)]
    source = next((part.source for part in parts if part.source), "")
    return replace(parts[0], source=source)


def section(method: Method) -> str:
    """What the guide says of a method, as Markdown: its call and the parts of its docstring."""
    text = explained(method)
    equation = "\n```text\n" + "\n".join(text.equations) + "\n```\n" if text.equations else ""
    call = f"`mtl.{'models.' if method in ARCHITECTURES else ''}{method.name}({method.options})`"
    return f"### {method.name}\n\n{call}: {text.says}\n{equation}\n{text.symbols}\n\n{text.source}"


def _documented(name: str) -> object:
    return getattr(mtl, name, None) or getattr(mtl.models, name)


def _parts(of: object) -> Described:
    text = re.split(r"\n(?:Args:|Attributes:|Raises:|>>>)", inspect.getdoc(of))[0]
    says, *paragraphs = text.strip().split("\n\n")
    start = next((n for n, part in enumerate(paragraphs) if part.startswith("Source:")), len(paragraphs))
    first = next((n for n, part in enumerate(paragraphs[:start]) if is_equation(part)), start)
    equations = list(itertools.takewhile(is_equation, paragraphs[first:start]))
    symbols = [part for part in paragraphs[:start] if part not in equations]
    lines = [line.strip() for part in equations for line in part.splitlines()]
    return Described(
        _one_line(says), lines, *(" ".join(map(_one_line, some)) for some in (symbols, paragraphs[start:]))
    )


def _one_line(text: str) -> str:
    return re.sub(r":(?:class|func|mod|meth|data):`~?([^`]*)`", r"`\1`", " ".join(text.split())).replace("``", "`")


def is_equation(text: str) -> bool:
    """Whether a paragraph is one: indented, or mostly signs."""
    words = re.findall(r"\b[a-z]{4,}\b", text)
    return text.startswith(" ") or (len(words) < 10 and bool(re.search(r"[=←Σ]", text)) and "`" not in text)
