"""The names of our own networks."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from timestepper.errors import ConfigurationError
from timestepper.networks.cifar_densenet import CifarDenseNet
from timestepper.networks.cifar_resnet import CifarResNet
from timestepper.networks.clique_net import CliqueNet


@dataclass(frozen=True, slots=True)
class Family:
    """Networks that are named after their sizes.

    Attributes:
        prefix: what all names begin with.
        pattern: the whole name, a group for each size.
        make: from the sizes, in order, and other options to the network.
        names: those that papers train; all others of the pattern can be made too.
    """

    prefix: str
    pattern: str
    make: Callable[..., nn.Module]
    names: tuple[str, ...]


def _densenet(kind: str, depth: int, growth: int, **options: Any) -> nn.Module:
    return CifarDenseNet(depth, growth, bottleneck=kind == "bc", **options)


FAMILIES = (
    Family(
        "cifar_resnet",
        r"cifar_resnet(\d+)",
        CifarResNet,
        # The paper's depths (Figure 5), and two small ones.
        tuple(f"cifar_resnet{depth}" for depth in (20, 32, 44, 56, 110, 146, 290, 362, 506)),
    ),
    Family(
        "cifar_densenet",
        r"cifar_densenet(bc|)(\d+)_k(\d+)",
        _densenet,
        ("cifar_densenet40_k12", "cifar_densenet100_k12", "cifar_densenetbc100_k12"),
    ),
    Family(
        "cliquenet",
        r"cliquenet_k(\d+)_t(\d+)",
        CliqueNet,
        ("cliquenet_k36_t12", "cliquenet_k64_t15", "cliquenet_k80_t15", "cliquenet_k80_t18"),
    ),
)


def find_family(name: str) -> Family | None:
    """Find the family that a name means by how it begins."""
    return next((family for family in FAMILIES if name.startswith(family.prefix)), None)


def create_ours(name: str, options: dict[str, Any]) -> nn.Module:
    """Build a network of ours.

    Raises:
        ConfigurationError: the name lacks a size, or has an impossible one.
    """
    family = find_family(name)
    assert family is not None
    match = re.fullmatch(family.pattern, name)
    if match is None:
        raise ConfigurationError(
            f"'{name}' does not say its sizes; write it as in '{family.names[0]}'"
        )
    sizes = [int(group) if group.isdecimal() else group for group in match.groups()]
    return family.make(*sizes, **options)
