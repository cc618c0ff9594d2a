"""How series look, and how much room their names take."""

from __future__ import annotations

from collections.abc import Collection

CHARACTER = 0.09
"""Inches that a character takes."""
HANDLE = 0.7
"""Inches of a legend's column that are no label."""
COLUMNS = 4
"""A legend has no more."""
DASHES = ("-", "--", ":", "-.")


def dash(number: int) -> str:
    """Give the dash of the n-th series: ten colours, with another dash each time round."""
    return DASHES[number // 10 % len(DASHES)]


def legend_columns(labels: Collection[str], inches: float) -> int:
    """Count the columns of a legend that fit into a width.

    Args:
        labels: what it says; may be empty.
        inches: the figure's width.
    """
    widest = HANDLE + CHARACTER * max(map(len, labels), default=0)
    return max(1, min(COLUMNS, len(labels), int(inches / widest)))
