"""What the step sizes of a network depend on: the channel, the position or the weights."""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor, nn

from timestepper.controllers import FixedController
from timestepper.errors import ExplanationError
from timestepper.stepping.attach import stepping_of
from timestepper.stepping.stages import Stage

ROUNDING = 8
"""Step sizes that differ by no more than so many units of rounding count as equal."""


@dataclass(frozen=True, eq=False)
class Explanation:
    """What the step sizes S ``(depth, channels)`` of one stage depend on.

    Let m be the mean of S and ``channel_c = mean_d S[d, c] − m``; what is left,
    ``q = S − m − channel``, varies along the blocks. The controller is run once more with the
    stage's mean w̄ in the place of every block's w̄_d, which gives P: how P varies along the blocks,
    ``p = P − mean_d P``, comes from the position alone, and ``r = q − p`` from the blocks' weights.
    The shares of the variance are

        channel = mean(channel²) / Var(S),  position = mean(p q) / Var(S),
        weights = mean(r q) / Var(S)

    and add to 1. Where p and r go together, their common part is halved between them; where they
    go against each other, a share may be negative or above 1.

    Attributes:
        blocks: names of the stage's branches, in order of depth.
        deviation: standard deviation of S over blocks and channels, in units of step size. Shares
            of a variance that is next to nothing mean nothing.
        channel: share of what differs between channels and is the same in all blocks.
        position: share of what varies along the blocks with the same weights in each of them.
        weights: share of what varies with the blocks' own weights. All three are NaN where step
            sizes differ by no more than rounding.
        sensitivity: on the CPU, ``(depth, depth)``, s[d, j] = ‖∂S_d/∂w̄_j‖_F · ‖w̄_j‖ /
            √(features · channels): the root-mean-square change of block d's step sizes, to first
            order and in units of step size, when block j's averaged weights are changed by a
            random vector that is as long as they are. Zero above the diagonal where a controller
            goes along the blocks.
    """

    blocks: tuple[str, ...]
    deviation: float
    channel: float
    position: float
    weights: float
    sensitivity: Tensor

    @property
    def own(self) -> float:
        """Sensitivity to a block's own weights: mean of the diagonal."""
        return float(self.sensitivity.diagonal().mean())

    @property
    def earlier(self) -> float:
        """Sensitivity to the weights of all earlier blocks at once, in the mean over blocks."""
        return float(self.sensitivity.tril(-1).norm(dim=1).mean())


def explain(network: nn.Module) -> dict[str, Explanation]:
    """Tell what the step sizes of an attached network depend on, as they are now.

    Controllers run in eval mode and in their own precision, or in float32 where theirs is lower.
    It takes one backward pass through a controller for each block and channel of its stage: on one
    core under a second for a CIFAR ResNet-56, a quarter of a minute for a ResNet-506, and
    three quarters of a minute for ImageNet's ResNet-50 with its thousands of channels.

    Args:
        network: attached; nothing of it changes.

    Returns:
        The explanation by stage, in order of depth. Stages of one block are left out: position
        and weights can't be told apart there.

    Raises:
        AttachedError: the network is not attached.
        ExplanationError: all step sizes are one fixed number, every stage has one block only, the
            network is on the meta device, or a controller can't be copied.
    """
    stages = stepping_of(network).stages
    if any(factor.parameter.is_meta for stage in stages for factor in stage.factors):
        raise ExplanationError(
            "there is nothing to explain on the meta device, where weights have no values; move "
            "the network to another one with to_empty() and load weights"
        )
    fixed = [s.controller.step_size for s in stages if isinstance(s.controller, FixedController)]
    if len(fixed) == len(stages):
        numbers = " or ".join(f"{number:g}" for number in dict.fromkeys(fixed))
        raise ExplanationError(
            f"there is nothing to explain: all step sizes are fixed at {numbers}; take a "
            "controller such as 'lstm'"
        )
    deep = [stage for stage in stages if len(stage.branches) > 1]
    if not deep:
        raise ExplanationError(
            "there is nothing to compare: every stage of the network has one block only, where "
            "position and weights can't be told apart; take a deeper network"
        )
    with torch.inference_mode(False):
        return {stage.name: _explain(stage) for stage in deep}


def _explain(stage: Stage) -> Explanation:
    # A copy, so that no mode, gradient or statistic of the network's own is touched. cuDNN goes
    # back through recurrent layers in training mode only.
    try:
        controller = deepcopy(stage.controller).requires_grad_(False).eval()
    except RuntimeError as error:
        raise ExplanationError(
            f"the controller of stage {stage.name} can't be copied; let it keep no tensors but "
            f"parameters and buffers ({str(error).splitlines()[0]})"
        ) from error
    with stage.own_precision(), torch.backends.cudnn.flags(enabled=False):
        with torch.no_grad():
            averaged = stage.averaged()
            precision = torch.promote_types(averaged.dtype, torch.float32)
            controller, averaged = controller.to(precision), averaged.to(precision, copy=True)
            alike = controller(averaged.mean(0).expand_as(averaged).contiguous())
        averaged.requires_grad_()
        with torch.enable_grad():
            steps = controller(averaged)
        sensitivity = _sensitivity(steps, averaged)
    return Explanation(
        tuple(branch.name for branch in stage.branches),
        *_shares(steps.detach(), alike),
        sensitivity.cpu(),
    )


def _shares(steps: Tensor, alike: Tensor) -> tuple[float, float, float, float]:
    """Compute the standard deviation of step sizes and the shares of their variance.

    Args:
        steps: S, ``(depth, channels)``.
        alike: P, likewise.

    Returns:
        Standard deviation, shares of channel, position and weights.
    """
    rounding = ROUNDING * torch.finfo(steps.dtype).eps * steps.abs().max().item()
    steps, alike = steps.cpu().double(), alike.cpu().double()
    channel = steps.mean(0) - steps.mean()
    along = steps - steps.mean(0)
    position = alike - alike.mean(0)
    variance = steps.var(correction=0).item()
    deviation = math.sqrt(variance)
    if deviation <= rounding:
        return deviation, math.nan, math.nan, math.nan
    parts = (channel.square(), position * along, (along - position) * along)
    of_channel, of_position, of_weights = (part.mean().item() / variance for part in parts)
    return deviation, of_channel, of_position, of_weights


def _sensitivity(steps: Tensor, averaged: Tensor) -> Tensor:
    """Compute s[d, j], see :class:`Explanation`.

    One output at a time: not every controller can go backward for several at once.
    """
    depth, channels = steps.shape
    features = averaged.shape[1]
    squares = averaged.new_zeros(depth, depth)
    if steps.requires_grad and features:
        for d, c in product(range(depth), range(channels)):
            (gradient,) = torch.autograd.grad(steps[d, c], averaged, retain_graph=True)
            squares[d] += gradient.square().sum(1)
        squares /= features * channels
    lengths: Tensor = averaged.detach().norm(dim=1)
    return squares.sqrt() * lengths
