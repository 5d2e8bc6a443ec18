"""What the papers on architectures claim, and what is compared to test it; see :mod:`companion.claims`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

from companion.claims._rules import Claim, Comparison, Numbers, setting, versus

FRACTION = 0.5
"""Share of the parameters of separate models up to which TAPS has "a fraction" of them."""
STRENGTHS = (0.001, 0.003, 0.01)
"""λ of TAPS."""
MAINS = {"digit_8": "digit 8", "article_6": "shirt"}
"""Main task among twenty to what it is."""


def _over(conditions: Sequence[str], method: str, other: str) -> Callable[[Numbers], list[Comparison]]:
    """A method's test loss against that of another under each of these conditions."""
    return lambda numbers: [one for where in conditions for one in versus(numbers, where, method, [other], "loss")]


def _near_and_small(numbers: Numbers, condition: str, method: str) -> list[Comparison]:
    """No worse than separate models, with at most :data:`FRACTION` of their parameters."""
    own, apart = (numbers.of(condition, name, "parameters") for name in (method, "separate models"))
    small = Comparison(
        condition,
        method,
        f"{FRACTION:g}",
        "share of the parameters of separate models",
        own / apart,
        FRACTION,
        lower=True,
        margin=0.0,
        setting=setting(numbers, condition, [method], "loss", own=method),
        infinite=False,
    )
    return [*versus(numbers, condition, method, ["single task"], "loss", "no worse"), small]


_claim = functools.partial(Claim, study="architectures")
ARCHITECTURES: tuple[Claim, ...] = (
    *(
        _claim(
            id="A1",
            source="ACL 2016",
            sentence="An auxiliary task of a low level is better supervised at a lower layer than at the outermost.",
            where=f"layered, {rows} rows",
            what="",
            figure="architectures_layered",
            comparisons=_over([f"layered, {rows} rows"], "low level", "hard sharing"),
        )
        for rows in (300, 1200)
    ),
    *(
        _claim(
            id="A2",
            source="arXiv 1903.12117",
            sentence="With many tasks, routing is ahead of hard sharing.",
            where=f"twenty tasks, {called}",
            what="",
            figure="architectures_twenty",
            comparisons=_over([f"twenty tasks, {main}"], "routed", "hard sharing"),
        )
        for main, called in MAINS.items()
    ),
    _claim(
        id="A3",
        source="IEEE Access",
        sentence="Two backbones are ahead of one trunk of as many parameters.",
        where="ten tasks",
        what="",
        figure="architectures_ten",
        comparisons=_over(["ten tasks"], "two backbones", "wide trunk"),
    ),
    *(
        _claim(
            id="A4",
            source="arXiv 2203.16708",
            sentence="TAPS is near the accuracy of separate models with a fraction of their parameters.",
            where="ten tasks",
            what=f"λ {strength:g}",
            figure="architectures_sizes",
            comparisons=functools.partial(_near_and_small, condition="ten tasks", method=f"TAPS, λ {strength:g}"),
        )
        for strength in STRENGTHS
    ),
)
"""A1 to A4."""
