"""Telling images from others by what :meth:`~timestepper.data.DataSet.fingerprint` says of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

TOLERANCE = 1e-4
"""Relative difference of means and deviations that decoders and processors may make."""


def differences(some: Mapping[str, Any], others: Mapping[str, Any]) -> list[str]:
    """Name what tells images from others.

    Args:
        some: what is known of them, as JSON has it.
        others: likewise; what only one of both says, as earlier versions said less, counts for
            nothing.
    """
    return [key for key in some if key in others and not _alike(some[key], others[key])]


def _alike(one: Any, other: Any) -> bool:
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_alike, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=TOLERANCE)
    return bool(one == other)
