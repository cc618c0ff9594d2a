"""Second derivatives of operations whose first ones are written by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor


def second_gradients(
    compute: Callable[..., Tensor], inputs: Sequence[Tensor], grad_output: Tensor
) -> tuple[Tensor | None, ...]:
    """Compute gradients that have gradients themselves, or many at once.

    Args:
        compute: the function of the inputs, in torch's own operations; it uses all of them.
        inputs: its inputs.
        grad_output: of what it returns.

    Returns:
        The gradient of each input, None for those that need none.
    """
    device = grad_output.device.type
    low_precision = torch.amp.is_autocast_available(device)
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # One tensor may be two inputs: each has a gradient of its own.
        own = [one.view_as(one) for one in inputs]
        with torch.autocast(device, enabled=False) if low_precision else nullcontext():
            output = compute(*own)
    wanted = [one for one in own if one.requires_grad]
    grads = iter(torch.autograd.grad(output, wanted, grad_output, create_graph=create_graph))
    return tuple(next(grads) if one.requires_grad else None for one in own)
