"""Derivatives that only torch's own operations have.

Operations whose backward pass is written by hand have no part in them.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.autograd import forward_ad


def in_a_transform() -> bool:
    """Tell whether a transform of torch.func, forward-mode differentiation or tracing is at work.

    What ``torch.jit.trace`` saw of an operation of ours could not be saved.
    """
    return (
        torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
        or torch.jit.is_tracing()  # type: ignore[attr-defined]
    )


def stand_for_many(gradients: Iterable[Tensor]) -> bool:
    """Tell whether a backward pass computes several at once (``is_grads_batched``, or vmap)."""
    kinds = torch._C._functorch
    return any(kinds.is_legacy_batchedtensor(g) or kinds.is_batchedtensor(g) for g in gradients)
