"""What people use instead of time stepping, as variants of the CIFAR ResNet.

Each changes the ends of a finished plain network's residual branches, so that for one seed all
weights that both have are the same. Formulas, sources and what follows for time stepping are in
``docs/alternatives.md``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from timestepper.errors import ConfigurationError, did_you_mean
from timestepper.networks.initialise import he_normal

if TYPE_CHECKING:
    from timestepper.networks.cifar_resnet import BasicBlock, CifarResNet

LAST_SURVIVAL = 0.5
"""Probability that stochastic depth keeps the last block (Huang et al. 2016)."""
SQUEEZE_REDUCTION = 16
"""Channels of a squeeze-and-excitation gate over those of its hidden layer (Hu et al. 2018)."""


class BranchScale(nn.Module):
    """One learned scalar for a whole residual branch, zero at first."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Multiply features of any shape by the scalar."""
        return x * self.scale


def apply_variant(network: CifarResNet, variant: str) -> None:
    """Change a plain network into a variant, in place.

    Args:
        network: as its constructor made it.
        variant: a name in :data:`VARIANTS`.

    Raises:
        ConfigurationError: there is no such variant.
    """
    if variant not in VARIANTS:
        hint = did_you_mean(str(variant), VARIANTS) or f"; there are {', '.join(VARIANTS)}"
        raise ConfigurationError(f"no variant is called {variant!r}{hint}")
    VARIANTS[variant](network)


def plain(network: CifarResNet) -> None:
    """Leave the network as it is: the last norm's γ starts at 1."""


def half_gamma(network: CifarResNet) -> None:
    """Start each branch's last γ at 0.5, where a fresh controller's step sizes are."""
    for block in _blocks(network):
        nn.init.constant_(block.bn2.weight, 0.5)


def root_gamma(network: CifarResNet) -> None:
    """Start each branch's last γ at one over the root of its stage's depth, as ``lstm+`` does."""
    for stage in _stages(network):
        for block in stage:
            nn.init.constant_(block.bn2.weight, len(stage) ** -0.5)


def zero_gamma(network: CifarResNet) -> None:
    """Start each branch's last γ at 0 (Goyal et al. 2017, arXiv:1706.02677, section 5.1)."""
    for block in _blocks(network):
        nn.init.zeros_(block.bn2.weight)


def layer_scale(network: CifarResNet) -> None:
    """Put a LayerScale behind each last norm (Touvron et al. 2021, arXiv:2103.17239, section 2)."""
    from timm.layers.layer_scale import LayerScale2d

    blocks = _blocks(network)
    start = layer_scale_start(len(blocks))
    for block in blocks:
        block.branch_end = LayerScale2d(block.conv2.out_channels, init_values=start)


def layer_scale_start(blocks: int) -> float:
    """Where a LayerScale's vector starts, by a network's number of blocks, as CaiT prescribes.

    CaiT counts its depth in blocks too, though each has two residual branches where ours has one.
    """
    if blocks <= 18:
        return 0.1
    return 1e-5 if blocks <= 24 else 1e-6


def rezero(network: CifarResNet) -> None:
    """Multiply each branch by a scalar that starts at 0 (Bachlechner et al. 2020, 2003.04887)."""
    for block in _blocks(network):
        block.branch_end = BranchScale()


def skip_init(network: CifarResNet) -> None:
    """Replace all batch normalisation by biases and a scalar for each branch that starts at 0.

    De and Smith 2020, arXiv:2002.10444. As there no norm stays at all, neither the
    stem's nor those of projecting shortcuts.
    """
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            network.set_submodule(name, nn.Identity())
        elif isinstance(module, nn.Conv2d):
            module.bias = nn.Parameter(torch.zeros(module.out_channels))
    rezero(network)


def squeeze_excitation(network: CifarResNet) -> None:
    """Put a squeeze-and-excitation gate behind each last norm (Hu et al. 2018, arXiv:1709.01507).

    Its convolutions start He-normal like all others. The hidden layer has exactly a sixteenth of
    the channels: 1, 2 and 4; timm by itself would round them up to 8.
    """
    from timm.layers.squeeze_excite import SEModule

    for block in _blocks(network):
        channels = block.conv2.out_channels
        block.branch_end = SEModule(channels, rd_channels=channels // SQUEEZE_REDUCTION)
        he_normal(block.branch_end)


def stochastic_depth(network: CifarResNet) -> None:
    """Drop branches at random in training (Huang et al. 2016, arXiv:1603.09382).

    Of L blocks the l-th survives with probability ``1 - l / L * (1 - LAST_SURVIVAL)``, the paper's
    linear decay. As in timm a branch is dropped for each image by itself and divided by its
    probability where it survives; the paper drops it for a whole batch and multiplies in eval mode.
    """
    from timm.layers.drop import DropPath

    blocks = _blocks(network)
    for number, block in enumerate(blocks, start=1):
        block.branch_end = DropPath(number / len(blocks) * (1 - LAST_SURVIVAL))


VARIANTS: dict[str, Callable[[CifarResNet], None]] = {
    "plain": plain,
    "half_gamma": half_gamma,
    "root_gamma": root_gamma,
    "zero_gamma": zero_gamma,
    "layer_scale": layer_scale,
    "rezero": rezero,
    "skip_init": skip_init,
    "squeeze_excitation": squeeze_excitation,
    "stochastic_depth": stochastic_depth,
}
"""What changes a plain network into each variant, by name."""


def _stages(network: CifarResNet) -> list[list[BasicBlock]]:
    return [[*network.layer1], [*network.layer2], [*network.layer3]]


def _blocks(network: CifarResNet) -> list[BasicBlock]:
    return [block for stage in _stages(network) for block in stage]
