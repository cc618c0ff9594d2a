"""How outputs are compared."""

from __future__ import annotations

import torch
from torch import Tensor

from timestepper.errors import ShippingError

TOLERANCE = 1e-5
"""Of the largest output: float32 rounds at 6e-8, and another order of summation adds up."""


def require_equal(expected: Tensor, found: Tensor, what: str) -> None:
    """Raise :class:`ShippingError` unless outputs are equal in every bit.

    Args:
        expected: the network's outputs, ``(n, classes)``.
        found: those of what was written.
        what: what was loaded, as the beginning of a sentence.
    """
    if not torch.equal(expected, found):
        raise ShippingError(
            f"{what} gives other outputs ({_difference(expected, found)}); nothing was written"
        )


def require_close(expected: Tensor, found: Tensor, what: str) -> float:
    """Raise :class:`ShippingError` unless outputs agree to ``TOLERANCE`` of the largest.

    Args:
        expected: the network's outputs, ``(n, classes)``.
        found: those of what was written.
        what: what was loaded, as the beginning of a sentence.

    Returns:
        The largest difference over the largest absolute output.
    """
    same_shape = expected.shape == found.shape
    worst = (expected - found).abs().max().item() if same_shape else float("nan")
    largest = expected.abs().max().item()
    # Written so that a NaN does not pass; all zeros may.
    if not worst <= TOLERANCE * largest:
        raise ShippingError(
            f"{what} gives other outputs ({_difference(expected, found)}), where {TOLERANCE:g} of "
            "the largest is allowed; nothing was written"
        )
    return worst / largest if largest else 0.0


def _difference(expected: Tensor, found: Tensor) -> str:
    if expected.shape != found.shape:
        return f"of shape {tuple(found.shape)}, not {tuple(expected.shape)}"
    worst, largest = (expected - found).abs().max().item(), expected.abs().max().item()
    return f"they differ by up to {worst:.2g}, the largest is {largest:.2g}"
