"""The residual networks for small images of He et al. 2016, section 4.2."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from timestepper.errors import ConfigurationError
from timestepper.networks.initialise import he_normal
from timestepper.networks.residual_variants import apply_variant

WIDTHS = (16, 32, 64)

Shortcut = Literal["pad", "project"]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, each with batch normalisation, beside a shortcut; ReLU after the sum.

    Where the shape changes the shortcut is either free of parameters (every second pixel in both
    directions, zero channels on both sides in equal number) or, as the submodule ``downsample``,
    a strided 1x1 convolution with batch normalisation. ``branch_end`` is what a variant puts
    behind the last norm, if anything.

    Args:
        in_channels: channels of the input.
        channels: channels of the output.
        stride: 1 or 2, the stride of the first convolution.
        shortcut: ``"pad"`` or ``"project"``; without effect where the shape stays.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, shortcut: Shortcut) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.stride = stride
        self.zeros = (channels - in_channels) // 2
        self.branch_end: nn.Module | None = None
        self.downsample: nn.Module | None = None
        if shortcut == "project" and (stride != 1 or in_channels != channels):
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False),
                nn.BatchNorm2d(channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        """Compute the block.

        Args:
            x: ``(batch, in_channels, height, width)``.

        Returns:
            ``(batch, channels, ceil(height / stride), ceil(width / stride))``.
        """
        shortcut = x
        if self.downsample is not None:
            shortcut = self.downsample(x)
        elif self.stride != 1 or self.zeros:
            thinned = x[:, :, :: self.stride, :: self.stride]
            shortcut = nn.functional.pad(thinned, (0, 0, 0, 0, self.zeros, self.zeros))
        branch = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        if self.branch_end is not None:
            branch = self.branch_end(branch)
        y: Tensor = self.relu(shortcut + branch)
        return y


class CifarResNet(nn.Module):
    """A residual network of depth 6n + 2: three stages of n basic blocks, 16, 32, 64 channels.

    He et al. 2016, section 4.2; the paper's CIFAR experiments use depths 32 to 506 (Figure 5).
    Convolutions start He-normal (fan-out), batch normalisations at 1 and 0. Images may have any
    size of a few pixels or more; ``default_cfg["input_size"]`` says 32x32, which only tools read.

    Args:
        depth: 6n + 2 with n >= 1: 8, 14, 20, 32, 56, 110 ...
        num_classes: length of the output.
        in_channels: channels of the images.
        shortcut: ``"pad"`` (He's option A, no parameters) or ``"project"`` (option B).
        variant: what the residual branches have instead of time stepping, such as ``"rezero"``:
            a name in ``timestepper.networks.residual_variants.VARIANTS``.

    Raises:
        ConfigurationError: for a depth that is not 6n + 2, an unknown shortcut or variant.
    """

    def __init__(
        self,
        depth: int,
        num_classes: int = 10,
        in_channels: int = 3,
        shortcut: Shortcut = "pad",
        variant: str = "plain",
    ) -> None:
        super().__init__()
        _check_depth(depth)
        if shortcut not in ("pad", "project"):
            raise ConfigurationError(f"shortcut is {shortcut!r}; it must be 'pad' or 'project'")
        blocks = (depth - 2) // 6
        self.default_cfg = {"input_size": (in_channels, 32, 32), "num_classes": num_classes}
        self.conv1 = nn.Conv2d(in_channels, WIDTHS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        self.relu = nn.ReLU()
        self.layer1 = _stage(WIDTHS[0], WIDTHS[0], blocks, 1, shortcut)
        self.layer2 = _stage(WIDTHS[0], WIDTHS[1], blocks, 2, shortcut)
        self.layer3 = _stage(WIDTHS[1], WIDTHS[2], blocks, 2, shortcut)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(WIDTHS[2], num_classes)
        he_normal(self)
        # Last, so that what it draws leaves all weights above those of the plain network.
        apply_variant(self, variant)

    def forward(self, x: Tensor) -> Tensor:
        """Classify images.

        Args:
            x: ``(batch, in_channels, height, width)``, normalised.

        Returns:
            Logits, ``(batch, num_classes)``.
        """
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.fc(self.avgpool(x).flatten(1))
        return logits


def _stage(
    in_channels: int, channels: int, blocks: int, stride: int, shortcut: Shortcut
) -> nn.Sequential:
    first = BasicBlock(in_channels, channels, stride, shortcut)
    rest = [BasicBlock(channels, channels, 1, shortcut) for _ in range(blocks - 1)]
    return nn.Sequential(first, *rest)


def _check_depth(depth: int) -> None:
    if depth >= 8 and depth % 6 == 2:
        return
    below = max(8, depth - (depth - 2) % 6)
    near = str(below) if depth < 8 else f"{below} or {below + 6}"
    raise ConfigurationError(f"depth {depth} is not 6n + 2 with n >= 1; the nearest is {near}")
