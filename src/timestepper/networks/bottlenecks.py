"""Where a bottleneck has its stride: in the first 1×1 convolution (v1) or in the 3×3 (v1.5).

He et al. 2016 put it in the first 1×1 convolution, and so do the networks of the paper; timm and
torchvision put it in the 3×3, which costs 6 % more operations. The parameters are the same.
"""

from __future__ import annotations

from typing import Literal

from torch import nn

from timestepper.errors import ConfigurationError

Version = Literal["v1", "v1.5"]

VERSIONS: tuple[Version, ...] = ("v1", "v1.5")


def split_version(name: str) -> tuple[str, Version | None]:
    """Split a network's name into the library's name and the version of its bottlenecks.

    The first part alone builds the network in its library, unless the version is ``"v1"``.

    Args:
        name: such as ``"resnet50_v1"``, ``"timm/seresnet50_v1.5"`` or ``"resnet50"``.

    Returns:
        ``("resnet50", "v1")``, ``("timm/seresnet50", "v1.5")``, ``("resnet50", None)``.
    """
    for version in VERSIONS:
        bare = name.removesuffix(f"_{version}")
        if bare != name:
            return bare, version
    return name, None


def set_version(network: nn.Module, version: Version) -> None:
    """Put the stride of every bottleneck where a version has it, in place.

    Args:
        network: one of timm's that is made of the bottlenecks of its ResNets, as timm builds it:
            with the strides in the 3×3 convolutions.
        version: ``"v1"`` or ``"v1.5"``.

    Raises:
        ConfigurationError: the network has no such bottlenecks, or strides elsewhere in them; the
            message goes on where the network's name ends.
    """
    from timm.models.resnet import Bottleneck

    blocks = [module for module in network.modules() if isinstance(module, Bottleneck)]
    if not blocks:
        raise ConfigurationError(
            f"is not made of timm's ResNet bottlenecks, which alone have a {version}; leave "
            f"'_{version}' out"
        )
    for block in blocks:
        if block.conv2.stride != (block.stride, block.stride):
            raise ConfigurationError(
                "has bottlenecks with the stride in neither their first 1×1 nor their 3×3 "
                f"convolution; leave '_{version}' out"
            )
    if version == "v1":
        for block in blocks:
            block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride
