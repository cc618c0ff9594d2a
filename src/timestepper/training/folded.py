"""The network that ships: folded, verified, written down."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as from_safetensors
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from timestepper.data import DataSet
from timestepper.errors import FoldError, StateError
from timestepper.files import write_atomically
from timestepper.stepping import fold, load_weights
from timestepper.training.build import build_plain_network
from timestepper.training.configuration import Configuration


@torch.no_grad()
def folded_copy(network: nn.Module, images: Tensor) -> nn.Module:
    """Fold a copy of a network and compare both on real images.

    Args:
        network: with step sizes or without; it stays as it is.
        images: float32 ``(n, channels, height, width)``, on the network's device.

    Returns:
        The plain network in eval mode.

    Raises:
        FoldError: the outputs differ in any bit.
    """
    network = copy.deepcopy(network).eval()
    before = network(images)
    if hasattr(network, "time_stepping"):
        fold(network)
    after = network(images)
    if not torch.equal(before, after):
        worst = (before - after).abs().max().item()
        raise FoldError(
            f"the folded network differs from the stepped one by up to {worst:.2g} on "
            f"{len(images)} images; nothing was written"
        )
    return network


def write_weights(network: nn.Module, path: Path) -> None:
    """Write a plain network's weights as safetensors, atomically.

    Args:
        network: plain.
        path: the file.
    """
    # Weights that several layers share are written for each: the format has no references.
    state = {
        name: tensor.cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in network.state_dict().items()
    }
    write_atomically(path, to_safetensors(state, {"format": "pt"}))


def shared_weights(network: nn.Module) -> tuple[str, str] | None:
    """Name two places of a network that have one tensor, if there are such."""
    first: dict[int, str] = {}
    for name, tensor in network.state_dict(keep_vars=True).items():
        if first.setdefault(id(tensor), name) != name:
            return first[id(tensor)], name
    return None


def load_plain(configuration: Configuration, images: DataSet, path: Path) -> nn.Module:
    """Build a run's network without step sizes and load folded weights into it.

    Raises:
        StateError: the file can't be read, or its weights belong to another network.
    """
    network = build_plain_network(configuration, images)
    try:
        state = from_safetensors(path.read_bytes())
        load_weights(network, state)
    except OSError as error:
        raise StateError(f"{path}: {error.strerror}; name a file of safetensors") from error
    except SafetensorError as error:
        raise StateError(f"{path} is not a file of safetensors, or it is broken") from error
    except StateError as error:
        raise StateError(f"{path}: {error}") from error
    return network.eval()
