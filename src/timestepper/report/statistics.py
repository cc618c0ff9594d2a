"""What several seeds say: means, intervals, paired tests."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over seeds, in the unit of the values.

    Attributes:
        count: number of seeds.
        mean: their mean.
        low: lower end of the 95 % interval by Student's t; NaN for a single seed, and where all
            values are equal, which leaves no spread to estimate it from.
        high: upper end.
    """

    count: int
    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Difference:
    """A mean difference over seeds, each seed by itself.

    Attributes:
        estimate: of the differences.
        p: of the two-sided paired t-test for no difference; NaN for a single seed, and where all
            differences are equal.
    """

    estimate: Estimate
    p: float


def estimate(values: Sequence[float]) -> Estimate:
    """Estimate a mean from one value a seed.

    Args:
        values: at least one.
    """
    mean = float(np.mean(values))
    if _all_equal(values):
        return Estimate(len(values), mean, math.nan, math.nan)
    low, high = stats.t.interval(LEVEL, len(values) - 1, mean, stats.sem(values))
    return Estimate(len(values), mean, float(low), float(high))


def difference(values: Sequence[float], others: Sequence[float]) -> Difference:
    """Compare two series, seed by seed.

    Args:
        values: one a seed.
        others: what is subtracted, for the same seeds in the same order.
    """
    differences = np.subtract(values, others)
    p = math.nan
    if not _all_equal(differences):
        p = float(stats.ttest_rel(values, others).pvalue)
    return Difference(estimate(differences.tolist()), p)


def _all_equal(values: Sequence[float] | np.ndarray) -> bool:
    """Tell whether values are equal but for the last binary digits, which are no evidence."""
    return bool(np.allclose(values, values[0], rtol=1e-9, atol=1e-12))
