"""The optimizer: SGD, in any memory format."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.sgd import sgd

from timestepper.training.configuration import Configuration

SETTINGS = ("lr", "momentum", "dampening", "nesterov", "weight_decay", "maximize")


def build_optimizer(configuration: Configuration, network: nn.Module) -> torch.optim.SGD:
    """Build the optimizer over all parameters of a network on its device, controllers included."""
    settings = configuration.optimizer
    device = next(network.parameters()).device
    on_cpu = device.type == "cpu"
    kind = ChannelsLastSGD if configuration.channels_last and on_cpu else torch.optim.SGD
    lr: float | Tensor = settings.lr
    if device.type == "cuda":  # A CUDA graph reads it from where it is.
        lr = torch.tensor(settings.lr, dtype=torch.float32, device=device)
    return kind(
        network.parameters(),
        lr=lr,
        momentum=settings.momentum,
        nesterov=settings.nesterov,
        weight_decay=settings.weight_decay,
        fused=True,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of the next step."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return the state for a checkpoint, which other devices load too."""
    state = optimizer.state_dict()
    groups = [{**group, "lr": float(group["lr"])} for group in state["param_groups"]]
    return {**state, "param_groups": groups}


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load a checkpoint's momentum; settings stay those of the configuration, as does the format.

    Torch's fused steps (2.14) take weight and momentum as they lie in memory: where the formats
    differ, each weight would get another one's momentum.
    """
    own = [dict(group) for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    lr = float(optimizer.param_groups[0]["lr"])  # The schedule's.
    for group, settings in zip(optimizer.param_groups, own, strict=True):
        group.update({name: settings[name] for name in SETTINGS})
    set_learning_rate(optimizer, lr)
    for parameter, kept in optimizer.state.items():
        if kept.get("momentum_buffer") is not None:
            kept["momentum_buffer"] = torch.empty_like(parameter).copy_(kept["momentum_buffer"])


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
