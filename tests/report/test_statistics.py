"""Intervals and tests against their formulas, with quantiles from a printed table."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import integrate, special

from timestepper.report.statistics import difference, estimate

# Quantiles of Student's t for 97.5 %, by degrees of freedom, as statistical tables print them.
T = {1: 12.706205, 2: 4.302653, 4: 2.776445}


@pytest.mark.parametrize("values", [[1.0, 2.0], [3.0, 5.0, 4.5], [0.1, 0.2, 0.15, 0.4, 0.3]])
def test_interval_is_students(values):
    n = len(values)
    mean = math.fsum(values) / n
    deviation = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1))
    found = estimate(values)
    assert found.count == n
    assert found.mean == pytest.approx(mean)
    assert found.high - mean == pytest.approx(T[n - 1] * deviation / math.sqrt(n), rel=1e-6)
    assert mean - found.low == pytest.approx(found.high - mean)


def test_one_seed_has_no_interval():
    found = estimate([4.0])
    assert (found.count, found.mean) == (1, 4.0)
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert math.isnan(difference([4.0], [3.0]).p)


def test_equal_values_have_neither_interval_nor_p():
    """Three seeds that agree to the last test image are no proof that all seeds would."""
    found = estimate([2.0, 2.0, 2.0])
    assert (found.count, found.mean) == (3, 2.0)
    assert math.isnan(found.low)
    compared = difference([0.3, 0.4, 0.7], [0.2, 0.3, 0.6])  # Equal but for rounding.
    assert compared.estimate.mean == pytest.approx(0.1)
    assert math.isnan(compared.estimate.high)
    assert math.isnan(compared.p)


def density(t, degrees):
    """Student's density, written out."""
    front = special.gamma((degrees + 1) / 2) / (
        math.sqrt(degrees * math.pi) * special.gamma(degrees / 2)
    )
    return front * (1 + t * t / degrees) ** (-(degrees + 1) / 2)


def test_p_is_the_integral_of_students_density():
    values, others = np.array([5.0, 6.5, 6.0, 7.0]), np.array([4.0, 6.0, 5.8, 5.0])
    each = values - others
    t = each.mean() / (each.std(ddof=1) / math.sqrt(4))
    beyond, _ = integrate.quad(density, t, math.inf, args=(3,))
    found = difference(values, others)
    assert found.p == pytest.approx(2 * beyond, rel=1e-7)
    assert found.estimate.mean == pytest.approx(each.mean())
    assert difference(others, values).p == pytest.approx(found.p)


def test_pairs_matter():
    """A difference that every seed shows is found however much seeds differ among themselves."""
    seeds = np.array([0.0, 10.0, 20.0, 30.0])
    better = seeds + np.array([1.0, 1.1, 0.9, 1.0])
    paired, shuffled = difference(better, seeds), difference(better[::-1], seeds)
    assert paired.p < 1e-3 < shuffled.p


def test_ninety_five_of_a_hundred_intervals_hold_the_truth():
    random = np.random.default_rng(0)
    found = [estimate(random.normal(1.0, 2.0, 3).tolist()) for _ in range(4000)]
    held = np.mean([e.low <= 1.0 <= e.high for e in found])
    assert held == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / 4000))
