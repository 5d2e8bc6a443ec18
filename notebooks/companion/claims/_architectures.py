"""What the papers on architectures claim, and what is compared to test it; see :mod:`companion.claims`."""

from __future__ import annotations

from companion.claims._judge import Change, Claim, Versus

FRACTION = 0.5
"""Share of the parameters of separate models up to which TAPS has "a fraction" of them."""
SAYS = {
    "A1": (
        "ACL 2016",
        "An auxiliary task of a low level is better supervised at a lower layer than at the outermost.",
    ),
    "A2": ("arXiv 1903.12117", "With many tasks, routing is ahead of hard sharing."),
    "A3": ("IEEE Access", "Two backbones are ahead of one trunk of as many parameters."),
    "A4": ("arXiv 2203.16708", "TAPS is near the accuracy of separate models with a fraction of their parameters."),
}
"""Claim to its paper and what that says, in our words."""
STRENGTHS = (0.001, 0.003, 0.01)
"""λ of TAPS."""
MAINS = {"digit_8": "digit 8", "article_6": "shirt"}
"""Main task among twenty to what it is."""


def _claim(id: str, where: str, figure: str, pairs: list[Versus | Change], what: str = "") -> Claim:
    return Claim(id, *SAYS[id], where, what, "architectures", f"architectures_{figure}", pairs)


def _near_and_small(what: str) -> Claim:
    """No worse than separate models, with at most :data:`FRACTION` of their parameters."""
    at, method = "ten tasks", f"TAPS, {what}"
    near = Versus(at, method, ["single task"], "loss", "no worse")
    small = Change(
        at,
        method,
        f"{FRACTION:g}",
        "share of the parameters of separate models",
        ours=(method, "share_of_separate_models"),
        theirs=FRACTION,
        lower=True,
        margin=0.0,
        learned=(method,),
    )
    return _claim("A4", at, "sizes", [near, small], what)


ARCHITECTURES: tuple[Claim, ...] = (
    *(
        _claim("A1", at, "layered", [Versus(at, "low level", ["hard sharing"])])
        for at in ("layered, 300 rows", "layered, 1200 rows")
    ),
    *(
        _claim("A2", f"twenty tasks, {called}", "twenty", [Versus(f"twenty tasks, {main}", "routed", ["hard sharing"])])
        for main, called in MAINS.items()
    ),
    _claim("A3", "ten tasks", "ten", [Versus("ten tasks", "two backbones", ["wide trunk"])]),
    *(_near_and_small(f"λ {strength:g}") for strength in STRENGTHS),
)
"""A1 to A4."""
