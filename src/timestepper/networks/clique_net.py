"""CliqueNet for small images: every layer of a block feeds every other (Yang et al. 2018)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn

from timestepper.errors import ConfigurationError
from timestepper.networks.cifar_densenet import Transition
from timestepper.networks.initialise import he_normal
from timestepper.stepping import Branch

BLOCKS = 3
STEM_CHANNELS = 64


class CliqueLayer(nn.Module):
    """One layer of a clique block: its features from its block's input and from other layers.

    Both stages share the 3x3 weights W_ij from layer i to this layer j, held in one convolution
    whose input channels follow the other layers in order. The norms before it are each stage's
    own.

    Args:
        in_channels: channels of the block's input.
        growth: channels of each layer, k.
        layers: layers in the block.
        index: this layer's place, from 0.
    """

    def __init__(self, in_channels: int, growth: int, layers: int, index: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels + index * growth)
        self.norm2 = nn.BatchNorm2d((layers - 1) * growth)
        self.relu = nn.ReLU()
        self.from_input = nn.Conv2d(in_channels, growth, 3, padding=1, bias=False)
        self.from_layers = nn.Conv2d((layers - 1) * growth, growth, 3, padding=1, bias=False)
        self.before = index * growth

    def stage1(self, x: Tensor, before: list[Tensor]) -> Tensor:
        """Build the features from the block's input and the layers before.

        Args:
            x: ``(batch, in_channels, height, width)``.
            before: their features, each ``(batch, growth, height, width)``.

        Returns:
            ``(batch, growth, height, width)``.
        """
        weights = [self.from_input.weight, self.from_layers.weight[:, : self.before]]
        read = self.relu(self.norm1(torch.cat([x, *before], 1)))
        return nn.functional.conv2d(read, torch.cat(weights, 1), padding=1)

    def stage2(self, others: list[Tensor]) -> Tensor:
        """Build the features anew from the newest ones of all other layers, in order."""
        features: Tensor = self.from_layers(self.relu(self.norm2(torch.cat(others, 1))))
        return features


class CliqueBlock(nn.Module):
    """Layers that are built in turn (Stage I) and then updated in turn (Stage II).

    Args:
        in_channels: channels of the input.
        growth: channels of each layer, k.
        layers: number of layers, at least 2.
    """

    def __init__(self, in_channels: int, growth: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            CliqueLayer(in_channels, growth, layers, index) for index in range(layers)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Compute Stage II's features.

        Args:
            x: ``(batch, in_channels, height, width)``.

        Returns:
            ``(batch, layers * growth, height, width)``.
        """
        features: list[Tensor] = []
        layers = cast(Iterable[CliqueLayer], self.layers)
        for layer in layers:
            features.append(layer.stage1(x, features))
        for index, layer in enumerate(layers):
            features[index] = layer.stage2(features[:index] + features[index + 1 :])
        return torch.cat(features, 1)


class CliqueNet(nn.Module):
    """Three clique blocks; the classifier reads the pooled features of all three.

    A block's features are its input with its Stage II. Stage II alone goes on to the next block,
    through a transition that keeps its channels.

    Args:
        growth: k, channels of each layer.
        layers: T, layers of the three blocks together: a multiple of 3, at least 6.
        num_classes: length of the output.
        in_channels: channels of the images.

    Raises:
        ConfigurationError: for a number of layers that does not divide into three blocks of two or
            more, or growth below 1.
    """

    def __init__(
        self, growth: int, layers: int, *, num_classes: int = 10, in_channels: int = 3
    ) -> None:
        super().__init__()
        if layers < 2 * BLOCKS or layers % BLOCKS:
            raise ConfigurationError(f"T is {layers}; it must be a multiple of 3, at least 6")
        if growth < 1:
            raise ConfigurationError(f"growth is {growth}; it must be at least 1")
        self.default_cfg = {"input_size": (in_channels, 32, 32), "num_classes": num_classes}
        self.conv = nn.Conv2d(in_channels, STEM_CHANNELS, 3, padding=1, bias=False)
        self.growth = growth
        self.layers_of_block = layers // BLOCKS
        out = self.layers_of_block * growth
        self.widths = widths = (STEM_CHANNELS, out, out)
        self.blocks = nn.ModuleList(CliqueBlock(w, growth, self.layers_of_block) for w in widths)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width + out) for width in widths)
        self.transitions = nn.ModuleList(Transition(out, out) for _ in widths[1:])
        self.relu = nn.ReLU()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(sum(widths) + BLOCKS * out, num_classes)
        he_normal(self)

    def forward(self, x: Tensor) -> Tensor:
        """Classify images.

        Args:
            x: ``(batch, in_channels, height, width)``, normalised, of 4x4 pixels or more.

        Returns:
            Logits, ``(batch, num_classes)``.
        """
        x = self.conv(x)
        pooled = []
        for index, (block, norm) in enumerate(zip(self.blocks, self.norms, strict=True)):
            features = block(x)
            pooled.append(self.avgpool(self.relu(norm(torch.cat([x, features], 1)))).flatten(1))
            if index < len(self.transitions):
                x = self.transitions[index](features)
        logits: Tensor = self.fc(torch.cat(pooled, 1))
        return logits

    def residual_branches(self) -> list[Branch]:
        """Name the layers as branches; ``find_branches`` asks for them.

        One for each layer, in both stages, one stage for each block. Every reader of a layer's
        features begins with a batch norm, which undoes any scale of them in training: the step
        sizes go into these norms, as in DenseNets.
        """
        return [
            self._branch(block, index)
            for block in range(BLOCKS)
            for index in range(self.layers_of_block)
        ]

    def _branch(self, block: int, index: int) -> Branch:
        growth, inputs = self.growth, self.widths[block]
        stage = f"blocks.{block}"
        readers = {f"norms.{block}": inputs + index * growth}  # norm: the layer's first channel
        if block < len(self.transitions):
            readers[f"transitions.{block}.norm"] = index * growth
        for other in range(self.layers_of_block):
            if other > index:
                readers[f"{stage}.layers.{other}.norm1"] = inputs + index * growth
            if other != index:
                place = index if index < other else index - 1
                readers[f"{stage}.layers.{other}.norm2"] = place * growth
        layer = f"{stage}.layers.{index}"
        return Branch(
            name=layer,
            stage=stage,
            weights=(f"{layer}.from_input", f"{layer}.from_layers"),
            scaled=tuple(readers),
            channels=tuple((first, first + growth) for first in readers.values()),
        )
