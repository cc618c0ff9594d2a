"""Optimizer steps."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from lightning_fabric import Fabric
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn

from timestepper.data import DataSet
from timestepper.errors import ConfigurationError
from timestepper.training.build import build_module, build_network, build_penalty, captures_steps
from timestepper.training.captured import CapturedStep
from timestepper.training.configuration import Configuration
from timestepper.training.evaluation import Meter
from timestepper.training.folded import shared_weights
from timestepper.training.not_finite import Guard
from timestepper.training.optimizer import build_optimizer, set_learning_rate
from timestepper.training.sync_batch_norm import share_statistics


class Steps:
    """A network, and all that a step of its training takes.

    Args:
        configuration: what to train.
        images: on what.
        fabric: device, precision and processes.
    """

    def __init__(self, configuration: Configuration, images: DataSet, fabric: Fabric) -> None:
        self.configuration = configuration
        self.fabric = fabric
        self.network = build_network(configuration, images).to(fabric.device)
        decay = configuration.ema_decay
        if decay is not None and (names := shared_weights(self.network)):
            raise ConfigurationError(
                f"ema_decay is not for networks whose layers share weights ({names[0]} and "
                f"{names[1]} are one), which would be averaged more than once a step; leave it out"
            )
        self.ema = None if decay is None else ModelEmaV3(self.network, decay=decay)
        self.penalty = build_penalty(configuration, self.network, images)
        self.last_penalty: Tensor | None = None
        self.guard = Guard(self.network, fabric, skip=configuration.optimizer.skip_not_finite)
        optimizer = build_optimizer(configuration, self.network)
        module = build_module(configuration, self.network, fabric)
        self.module, self.optimizer = fabric.setup(module, optimizer)
        self.captured: CapturedStep | None = None
        if captures_steps(configuration, fabric):
            whole, plain = (partial(self._whole_step, f) for f in (self.module, self._forward))
            self.captured = CapturedStep(whole, plain, configuration.batch_size)
        torch.manual_seed(configuration.seed + 1 + fabric.global_rank)
        self.meter = Meter(fabric)

    @property
    def trained(self) -> nn.Module:
        """The network that is evaluated and folded: the averaged one where there is one."""
        return self.network if self.ema is None else self.ema.module

    def make_step(self, inputs: Tensor, labels: Tensor, lr: float) -> tuple[Tensor, bool]:
        """Make an optimizer step, unless the guard forbids it.

        Args:
            inputs: ``(batch, channels, height, width)``.
            labels: int64 ``(batch,)``.
            lr: the learning rate.

        Returns:
            The batch's loss, detached, and whether the step was made.
        """
        set_learning_rate(self.optimizer, lr)
        if self.configuration.channels_last:
            inputs = inputs.to(memory_format=torch.channels_last)
        if self.captured is not None:
            loss = self.captured(inputs, labels)
        else:
            self.guard.begin_step()
            outputs, losses, loss = self._gradients(self.module, inputs, labels)
            if not self.guard.allows_step():
                return loss, False
            self._update(outputs, losses, labels)
        if self.ema is not None:
            self.ema.update(self.network)
        return loss, True

    def _gradients(
        self, forward: Callable[[Tensor], Tensor], inputs: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Go forward and backward; return outputs, each image's loss, and their mean."""
        weighted_penalty = self._weighted_penalty()
        outputs = forward(inputs)
        losses = nn.functional.cross_entropy(outputs, labels, reduction="none")
        loss = losses.mean()
        self.optimizer.zero_grad()
        self.fabric.backward(loss if weighted_penalty is None else loss + weighted_penalty)
        return outputs.detach(), losses.detach(), loss.detach()

    def _weighted_penalty(self) -> Tensor | None:
        """Compute what this step adds to the loss, the same in each process."""
        if self.penalty is None:
            return None
        share_statistics(self.network, self.fabric)
        penalty = self.penalty()
        self.last_penalty = penalty.detach()
        return self.configuration.stability.strength * penalty

    def _update(self, outputs: Tensor, losses: Tensor, labels: Tensor) -> None:
        self.optimizer.step()
        self.meter.update(losses, outputs, labels)

    def _whole_step(
        self, forward: Callable[[Tensor], Tensor], inputs: Tensor, labels: Tensor
    ) -> Tensor:
        """Make a step into which the host does not look; return the loss."""
        outputs, losses, loss = self._gradients(forward, inputs, labels)
        self._update(outputs, losses, labels)
        return loss

    def _forward(self, inputs: Tensor) -> Tensor:
        """Run the network without compiling it for yet another size of batch."""
        with self.fabric.autocast():
            outputs: Tensor = self.network(inputs)
        return outputs.float()
