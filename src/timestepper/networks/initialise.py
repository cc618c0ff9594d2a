"""How networks of our own start."""

from __future__ import annotations

from torch import nn


def he_normal(network: nn.Module) -> None:
    """Start each convolution He-normal by fan-out, as in He et al. 2015; norms are 1 and 0."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
