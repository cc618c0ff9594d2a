"""How numbers are written: rounded first, then given their unit or power."""

import math

import pytest

from timestepper.report.html.names import count, duration
from timestepper.report.names import power_of_ten


@pytest.mark.parametrize(
    ("logarithm", "shown"),
    [
        (5.9999, "1.00·10^6"),
        (5.5, "3.16·10^5"),
        (3.5, "3.16·10^3"),
        (2.9999, "1.00·10^3"),
        (2.5, "316"),
        (0, "1"),
        (-2.5, "0.00316"),
        (-3.5, "3.16·10^-4"),
        (1000.5, "3.16·10^1000"),
        (math.inf, "∞"),
        (-math.inf, "0"),
        (math.nan, "—"),
        (None, "—"),
    ],
)
def test_powers_of_ten(logarithm, shown):
    assert power_of_ten(logarithm) == shown


def test_times():
    seconds = (59.94, 59.96, 3599.4, 3599.6)
    assert list(map(duration, seconds)) == ["59.9 s", "1 min 0 s", "59 min 59 s", "1 h 0 min"]


def test_counts():
    numbers = (999_999, 999_999.7, 40_810_000, 999_990_000, 999_999_999)
    shown = ["999,999", "1.00 M", "40.81 M", "999.99 M", "1.00 G"]
    assert list(map(count, numbers)) == shown
