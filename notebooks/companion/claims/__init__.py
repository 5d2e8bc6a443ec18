"""The papers' claims as code: what is compared, which test decides, and which verdict follows.

A claim is a row of data (:class:`Claim`) that says what is compared (:class:`Versus`, :class:`Change`). It is tested on
the per-seed numbers of one study at full scale (:func:`companion.tables.protocol_table`), with rules that are the same
for all claims (:func:`test`), and put into words in one place (:func:`in_words`).

- *Test.* A two-sided paired t-test over seeds at level 0.05, with Holm's correction over the comparisons
  of one claim that count (:func:`mtlkit.stats.contrast`). Where seeds split the same rows again, variances are
  corrected for it. One outlying seed widens the t interval, and so speaks against a verdict.
- *Learned.* A comparison counts only if its better side beats the best constant: significantly, and by a tenth of
  what the best contender gains on it. Where shares of weight are compared, the method itself must have learned; where
  the sides stand under different conditions, under each of them. Where it would be significant but for the rows that
  seeds share, it does not count either, and a claim without other comparisons is undecided.
- *Trained and tuned.* It counts only if no side was cut off (:data:`LATE`) or has its learning rate at
  the edge of the grid. An opponent that equals another, or never left its start, counts once.
- *Rate.* A comparison of losses is unclear where the best of the rates and variants that the side behind has tried, by
  test losses over the tuning seeds, would leave less than the smallest difference that matters. The lowest of a few
  noisy means is too low, so this takes away too many verdicts rather than too few.
- *Smallest difference that matters.* A twentieth of the distance between the constant and the best contender;
  shares of weight: :data:`SHARES`. Where a share that is to fall is smaller than that from the start, the comparison is
  unclear.
- *Outcome of a comparison.* Better or worse: significant, and at least that much. Level: the whole 95 %
  interval is within that much. Otherwise unclear.
- *Seeds without a value.* A method with a diverged seed is not better than any other; against a method that has
  one it is better only if the other seeds say so as well, or all of that method's diverged. A share of weight is
  undefined where a seed gave no weight; such seeds are left out of the test, do not count as seeds, and the verdict is
  then at most "partly", or "not reproduced" in place of opposite.
- *Verdict* (:data:`VERDICTS`). A claim about all its comparisons is reproduced if all that count hold, partly
  reproduced if at least half do, opposite if in all of them the reverse holds; other rules are
  :func:`first`, :func:`most` and :func:`none_best`. What is left is not reproduced, or undecided where every interval
  leaves room for the claim: a larger difference than the smallest that matters, or for "no worse" none in the other
  direction. Nothing learned here, if that is why none counts. With fewer seeds than :data:`MINIMUM`, or where a method
  or a number is missing, the claim is not tested here.

Rules, margins and settings were fixed before the full-scale runs, after a first round of short ones. The word
"undecided" came later: such verdicts were called not reproduced before. So did two rules that can only take verdicts
away: that on rates, since choices by the lowest of many looks at few meta rows turned out to favour high rates, and
that on shares too small to fall. So did :data:`UNLABELLED`, an opponent that asks more of SLGrad.
"""

from companion.claims._judge import (
    DATA,
    LATE,
    MINIMUM,
    VERDICTS,
    Absent,
    Change,
    Claim,
    Numbers,
    Versus,
    compared,
    every,
    first,
    most,
    none_best,
    outcomes,
    test,
    that_count,
)
from companion.claims._papers import CLAIMS, CLEAN_ROWS, CORRECTED, PAPERS_BASELINES, SHARES, UNLABELLED
from companion.claims._table import NONE, in_words, least_support, matrices, readable, sentences, short, table

__all__ = [
    "CLAIMS",
    "CLEAN_ROWS",
    "CORRECTED",
    "DATA",
    "LATE",
    "MINIMUM",
    "NONE",
    "PAPERS_BASELINES",
    "SHARES",
    "UNLABELLED",
    "VERDICTS",
    "Absent",
    "Change",
    "Claim",
    "Numbers",
    "Versus",
    "compared",
    "every",
    "first",
    "in_words",
    "least_support",
    "matrices",
    "most",
    "none_best",
    "outcomes",
    "readable",
    "sentences",
    "short",
    "table",
    "test",
    "that_count",
]
