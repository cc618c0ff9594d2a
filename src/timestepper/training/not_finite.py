"""Losses and gradients that are not finite: noticed before the step, and traced to a layer."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from timestepper.errors import RunError
from timestepper.stepping import step_sizes
from timestepper.training.run import Run


class Guard:
    """Looks at the gradients of each step before the optimizer uses them.

    A loss that is not finite has gradients that are not. All processes have the same gradients,
    and so decide alike. On a GPU it does not look, as the host would have to wait for each step;
    unless steps are to be skipped.

    Args:
        network: what is trained.
        fabric: its device and precision.
        skip: leave such steps out.
    """

    def __init__(self, network: nn.Module, fabric: Fabric, *, skip: bool) -> None:
        self._network = network
        self._fabric = fabric
        self.skip = skip
        self.looks = skip or fabric.device.type == "cpu"
        self._before: list[Tensor] = []

    def begin_step(self) -> None:
        """Keep what the forward pass changes: the norms' statistics."""
        if self.skip:
            self._before = [buffer.clone() for buffer in self._network.buffers()]

    def allows_step(self) -> bool:
        """Tell whether all gradients are finite, as far as it looks."""
        if not self.looks:
            return True
        gradients = [p.grad for p in self._network.parameters() if p.grad is not None]
        return bool(get_total_norm(gradients).isfinite())

    def finite(self, losses: list[Tensor]) -> Tensor:
        """Tell of each of the last losses whether it is finite on all processes.

        Returns:
            On the device, ``(n,)``: 1 for yes, less for no. Where each step is looked at, all are.
        """
        if self.looks:
            return losses[0].new_ones(len(losses))
        finite = self._fabric.all_reduce(torch.stack(losses).isfinite().double(), reduce_op="mean")
        assert isinstance(finite, Tensor)
        return finite

    @torch.no_grad()
    def undo_step(self) -> None:
        """Put back what the forward pass has changed."""
        for buffer, before in zip(self._network.buffers(), self._before, strict=True):
            buffer.copy_(before)

    def culprit(self, inputs: Tensor) -> str:
        """Name the layer and the step sizes at which the step that was not allowed went wrong.

        Args:
            inputs: its images.

        Returns:
            The end of a sentence.
        """
        name = first_layer(self._network, inputs, self._fabric.autocast)
        return f" at {name}{_step_sizes(self._network, name)}" if name else ""


def first_layer(
    network: nn.Module, inputs: Tensor, autocast: Callable[[], AbstractContextManager[object]]
) -> str:
    """Name the first layer of the forward pass whose output is not finite.

    Where there is none, the first of the backward pass whose gradient is not; where there is none
    of these either, or the images or weights themselves are not finite, say that, or nothing.

    Args:
        network: with the gradients of the step.
        inputs: the images of the step.
        autocast: the precision of the forward pass.
    """
    if not inputs.isfinite().all():
        return "the images"
    order: list[str] = []
    wrong: list[str] = []

    def look(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, arguments: object, output: object) -> None:
            order.append(name)
            if isinstance(output, Tensor) and not output.isfinite().all():
                wrong.append(name)

        return hook

    copied = copy.deepcopy(network)
    for name, module in copied.named_modules():
        if not any(module.children()):
            module.register_forward_hook(look(name))
    with torch.no_grad(), autocast():
        copied(inputs)
    if wrong:
        return wrong[0]
    for name in reversed(order):
        for parameter in network.get_submodule(name).parameters(recurse=False):
            if parameter.grad is not None and not parameter.grad.isfinite().all():
                return name
    return ""


def _step_sizes(network: nn.Module, layer: str) -> str:
    """Say which step sizes a layer's branch has, where it is in one."""
    if not hasattr(network, "time_stepping"):
        return ""
    for branch, steps in step_sizes(network).items():
        if f"{layer}.".startswith(f"{branch}."):
            low, high = steps.min().item(), steps.max().item()
            return f" (step sizes of {branch}: {low:.3g} to {high:.3g})"
    return ""


def stopped(run: Run, what: str, *, penalised: bool) -> RunError:
    """Make the error that ends a training.

    Args:
        run: the training's.
        what: what is not finite, and where.
        penalised: whether a penalty is added to the loss.
    """
    last = run.checkpoints.last
    kept = f"the last good checkpoint is {last}" if last.exists() else "there is no checkpoint yet"
    weaker = "a smaller stability.strength, " if penalised else ""
    return RunError(
        f"{what}; {kept}; try {weaker}a smaller optimizer.lr, more schedule.warmup_epochs, or "
        "optimizer.skip_not_finite true"
    )
