"""Networks of our own, and one door to those of timm and torchvision."""

from timestepper.networks.cifar_resnet import BasicBlock, CifarResNet
from timestepper.networks.registry import create, list_networks

__all__ = ["BasicBlock", "CifarResNet", "create", "list_networks"]
