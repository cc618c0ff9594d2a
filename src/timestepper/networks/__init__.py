"""Networks of our own, and one door to those of timm and torchvision."""

from timestepper.networks.bottlenecks import split_version
from timestepper.networks.cifar_densenet import CifarDenseNet
from timestepper.networks.cifar_resnet import BasicBlock, CifarResNet
from timestepper.networks.clique_net import CliqueNet
from timestepper.networks.registry import create, list_networks
from timestepper.networks.residual_variants import VARIANTS

__all__ = [
    "VARIANTS",
    "BasicBlock",
    "CifarDenseNet",
    "CifarResNet",
    "CliqueNet",
    "create",
    "list_networks",
    "split_version",
]
