"""What a network costs while it is trained, and folded."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import nn

from timestepper.speed.counting import Counts, multiply_accumulates, parameters
from timestepper.stepping import fold


@dataclass(frozen=True)
class Costs:
    """What a network costs for one image of its own data.

    Attributes:
        training: with its controllers.
        inference: folded; of a plain network the same.
    """

    training: Counts
    inference: Counts


def costs(network: nn.Module, size: tuple[int, ...]) -> Costs:
    """Count parameters and operations of a network in both of its forms.

    Args:
        network: with step sizes or without; it stays as it is.
        size: of an image, ``(channels, height, width)``.
    """
    network = copy.deepcopy(network).eval()
    training = _count(network, size)
    if not hasattr(network, "time_stepping"):
        return Costs(training, training)
    return Costs(training, _count(fold(network), size))


def _count(network: nn.Module, size: tuple[int, ...]) -> Counts:
    image = next(network.parameters()).new_zeros(1, *size)
    with torch.no_grad():
        return Counts(parameters(network), multiply_accumulates(lambda: network(image)))
