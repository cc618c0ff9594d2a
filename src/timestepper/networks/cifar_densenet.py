"""The densely connected networks for small images of Huang et al. 2017, section 4.2."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from timestepper.errors import ConfigurationError
from timestepper.networks.initialise import he_normal

BLOCKS = 3


class DenseLayer(nn.Module):
    """Computes ``growth`` new channels from all channels so far, and joins them to these.

    Batch normalisation, ReLU and a 3x3 convolution; with ``bottleneck`` the same with a 1x1
    convolution to 4 * growth channels before.

    Args:
        in_channels: channels of the state so far.
        growth: new channels, k.
        bottleneck: whether there is a 1x1 convolution.
    """

    def __init__(self, in_channels: int, growth: int, *, bottleneck: bool) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.relu = nn.ReLU()
        if bottleneck:
            self.conv1 = nn.Conv2d(in_channels, 4 * growth, 1, bias=False)
            self.norm2 = nn.BatchNorm2d(4 * growth)
            self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)
        else:
            self.conv1 = nn.Conv2d(in_channels, growth, 3, padding=1, bias=False)
        self.bottleneck = bottleneck

    def forward(self, x: Tensor) -> Tensor:
        """Append the layer's features.

        Args:
            x: the state, ``(batch, in_channels, height, width)``.

        Returns:
            ``(batch, in_channels + growth, height, width)``.
        """
        features = self.conv1(self.relu(self.norm1(x)))
        if self.bottleneck:
            features = self.conv2(self.relu(self.norm2(features)))
        return torch.cat([x, features], 1)


class Transition(nn.Sequential):
    """Batch normalisation, ReLU, 1x1 convolution, 2x2 average pooling.

    Args:
        in_channels: channels of the input.
        channels: channels of the output.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(in_channels)
        self.relu = nn.ReLU()
        self.conv = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.pool = nn.AvgPool2d(2)


class CifarDenseNet(nn.Module):
    """A DenseNet of three dense blocks: plain of depth 3n + 4, or DenseNet-BC of depth 6n + 4.

    Plain ones begin with 16 channels; BC ones have bottlenecks, begin with 2k channels, and halve
    the channels in transitions. T, the layers in all blocks together, is the depth less 4, or half
    of that in BC networks.

    Args:
        depth: 3n + 4 with n >= 1, such as 40; for BC 6n + 4, such as 100.
        growth: k, channels that each layer adds.
        bottleneck: build DenseNet-BC.
        num_classes: length of the output.
        in_channels: channels of the images.

    Raises:
        ConfigurationError: for a depth that does not divide into three blocks, or growth below 1.
    """

    def __init__(
        self,
        depth: int,
        growth: int,
        *,
        bottleneck: bool = False,
        num_classes: int = 10,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        per_layer = BLOCKS * (2 if bottleneck else 1)
        if depth < 4 + per_layer or (depth - 4) % per_layer:
            below = max(4 + per_layer, depth - (depth - 4) % per_layer)
            raise ConfigurationError(
                f"depth {depth} is not {per_layer}n + 4 with n >= 1; the nearest is {below}"
            )
        if growth < 1:
            raise ConfigurationError(f"growth is {growth}; it must be at least 1")
        layers = (depth - 4) // per_layer
        self.default_cfg = {"input_size": (in_channels, 32, 32), "num_classes": num_classes}
        channels = 2 * growth if bottleneck else 16
        self.conv = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        blocks, transitions = [], []
        for block in range(BLOCKS):
            if block:
                before, channels = channels, channels // 2 if bottleneck else channels
                transitions.append(Transition(before, channels))
            blocks.append(_block(channels, growth, layers, bottleneck=bottleneck))
            channels += layers * growth
        self.block1, self.block2, self.block3 = blocks
        self.transition1, self.transition2 = transitions
        self.norm = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)
        he_normal(self)

    def forward(self, x: Tensor) -> Tensor:
        """Classify images.

        Args:
            x: ``(batch, in_channels, height, width)``, normalised, of 4x4 pixels or more.

        Returns:
            Logits, ``(batch, num_classes)``.
        """
        x = self.conv(x)
        x = self.transition2(self.block2(self.transition1(self.block1(x))))
        x = self.block3(x)
        logits: Tensor = self.fc(self.avgpool(self.relu(self.norm(x))).flatten(1))
        return logits


def _block(in_channels: int, growth: int, layers: int, *, bottleneck: bool) -> nn.Sequential:
    widths = range(in_channels, in_channels + layers * growth, growth)
    return nn.Sequential(*(DenseLayer(width, growth, bottleneck=bottleneck) for width in widths))
