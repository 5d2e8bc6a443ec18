"""The papers' claims as code: what is compared, which test decides, and which verdict follows.

A claim is tested on the per-seed numbers of one study (:func:`mtlkit.studies.per_seed_table`), with
rules that are the same for all claims:

- *Test.* A two-sided paired t-test over seeds at level 0.05, with Holm's correction over the comparisons
  of one claim. Not Wilcoxon's test: with the five seeds of a study at paper scale its p-value cannot fall
  below 0.06, so that nothing could be decided. One outlying seed widens the t interval, and so
  speaks against a verdict rather than for one.
- *Smallest difference that matters* (:data:`MARGINS`). A loss has to differ by a tenth of the other's
  mean, because losses of different studies have no common unit. Accuracy, ROC AUC and average precision:
  by 0.01, the last digit that papers print. Shares of weight: by 0.05 of the whole.
- *Outcome of a comparison.* Better or worse: significant, and at least that much. Level: the whole 95 %
  interval is within that much. Otherwise unclear.
- *Seeds without a value.* A diverged seed has an infinite loss: a method with one is not better than any
  other, and one without is better than a method that has one. A share of weight is undefined where a
  seed gave no weight; such seeds are left out of the test, and the verdict is then at most "partly".
- *Verdict* (:data:`VERDICTS`). A claim about all its comparisons is reproduced if all hold, partly
  reproduced if at least half do, opposite if in all of them the reverse holds; other rules are
  :func:`first`, :func:`most` and :func:`none_best`. With fewer seeds than :data:`MINIMUM`, or where a method or a
  number is missing, the claim is not tested here.

The margins and thresholds were fixed in this form after the first quick results of S1 to S4, V1 and V2 were
known, and have not been changed since.
"""

from mtlkit.claims._papers import CLAIMS, CLEAN_ROWS, PAPERS_BASELINES
from mtlkit.claims._rules import (
    LEVEL,
    MARGINS,
    MINIMUM,
    VERDICTS,
    Absent,
    Claim,
    Comparison,
    Numbers,
    every,
    first,
    most,
    none_best,
    outcomes,
    test,
    versus,
)
from mtlkit.claims._table import NONE, halvings, readable, sentences, short, table

__all__ = [
    "CLAIMS",
    "CLEAN_ROWS",
    "LEVEL",
    "MARGINS",
    "MINIMUM",
    "NONE",
    "PAPERS_BASELINES",
    "VERDICTS",
    "Absent",
    "Claim",
    "Comparison",
    "Numbers",
    "every",
    "first",
    "halvings",
    "most",
    "none_best",
    "outcomes",
    "readable",
    "sentences",
    "short",
    "table",
    "test",
    "versus",
]
