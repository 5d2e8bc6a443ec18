"""What the papers on architectures claim, and what is compared to test it; see :mod:`companion.claims`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

from companion.claims._rules import Claim, Comparison, Numbers, setting, versus

FRACTION = 0.5
"""Share of the parameters of separate models up to which TAPS has "a fraction" of them."""
MAINS = {"digit_8": "digit 8", "article_6": "shirt"}
"""Main task among twenty to what it is."""


def _over(conditions: Sequence[str], method: str, other: str) -> Callable[[Numbers], list[Comparison]]:
    """A method's test loss against that of another under each of these conditions."""
    return lambda numbers: [one for where in conditions for one in versus(numbers, where, method, [other], "loss")]


def _near_and_small(numbers: Numbers, condition: str) -> list[Comparison]:
    """No worse than separate models, with at most :data:`FRACTION` of their parameters."""
    own, apart = (numbers.of(condition, method, "parameters") for method in ("TAPS", "separate models"))
    small = Comparison(
        condition,
        "TAPS",
        f"{FRACTION:g}",
        "share of the parameters of separate models",
        own / apart,
        FRACTION,
        lower=True,
        margin=0.0,
        setting=setting(numbers, condition, ["TAPS"], "loss", own="TAPS"),
        infinite=False,
    )
    return [*versus(numbers, condition, "TAPS", ["single task"], "loss", "no worse"), small]


_claim = functools.partial(Claim, study="architectures", what="")
ARCHITECTURES: tuple[Claim, ...] = (
    *(
        _claim(
            id="A1",
            source="ACL 2016",
            sentence="An auxiliary task of a low level is better supervised at a lower layer than at the outermost.",
            where=f"layered, {rows} rows",
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
        figure="architectures_ten",
        comparisons=_over(["ten tasks"], "two backbones", "wide trunk"),
    ),
    _claim(
        id="A4",
        source="arXiv 2203.16708",
        sentence="TAPS is near the accuracy of separate models with a fraction of their parameters.",
        where="ten tasks",
        figure="architectures_sizes",
        comparisons=functools.partial(_near_and_small, condition="ten tasks"),
    ),
)
"""A1 to A4."""
