"""Second derivatives of operations whose first ones are written by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor


def second_gradients(
    compute: Callable[..., Sequence[Tensor]],
    inputs: Sequence[Tensor],
    grad_outputs: Sequence[Tensor | None],
) -> tuple[Tensor | None, ...]:
    """Compute gradients that have gradients themselves.

    Args:
        compute: the function of the inputs, in torch's own operations.
        inputs: its inputs.
        grad_outputs: of each tensor that it returns, None for zeros.

    Returns:
        The gradient of each input, None for those that need none or get none.
    """
    device = inputs[0].device.type
    low_precision = torch.amp.is_autocast_available(device)
    with torch.autocast(device, enabled=False) if low_precision else nullcontext():
        outputs = compute(*inputs)
    known = [(o, g) for o, g in zip(outputs, grad_outputs, strict=True) if g is not None]
    wanted = [one for one in inputs if one.requires_grad]
    grads = iter(
        torch.autograd.grad(
            [output for output, _ in known],
            wanted,
            [grad for _, grad in known],
            create_graph=True,
            allow_unused=True,
        )
    )
    return tuple(next(grads) if one.requires_grad else None for one in inputs)
