"""SGD for networks in channels_last on the CPU."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim.sgd import sgd

SETTINGS = ("lr", "momentum", "dampening", "nesterov", "weight_decay", "maximize")


class ChannelsLastSGD(torch.optim.SGD):
    """Torch's fused SGD, given weights with their dimensions in the order of memory.

    A number's update does not depend on which dimension it is in. But given weights in
    channels_last, torch (2.14) copies their gradients first, which takes as long as the update.
    State and results are those of torch's.
    """

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Make one step with the gradients that are there; closures are not taken."""
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            last = [p.ndim == 4 and not p.is_contiguous() for p in parameters]
            buffers: list[Tensor | None] = []
            if group["momentum"]:
                buffers += _in_order(map(self._momentum_buffer, parameters), last)
            sgd(
                _in_order(parameters, last),
                _in_order([p.grad for p in parameters], last),
                buffers,
                fused=True,
                **{name: group[name] for name in SETTINGS},
            )

    def _momentum_buffer(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        buffer: Tensor = state["momentum_buffer"]
        return buffer


def _in_order(tensors: Iterable[Tensor], channels_last: Iterable[bool]) -> list[Tensor]:
    """View those in channels_last with their channels last."""
    return [
        tensor.permute(0, 2, 3, 1) if last else tensor
        for tensor, last in zip(tensors, channels_last, strict=True)
    ]
