"""Run a network without a trace of it left behind, and with its operations in sight."""

from __future__ import annotations

import random
from collections import OrderedDict, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from timestepper.stepping.branches import address_of

CONTAINERS = (dict, OrderedDict, defaultdict, list, set)
"""What can be emptied and filled again; classes derived of them may not allow it."""


@contextmanager
def left_as_it_was(network: nn.Module) -> Iterator[None]:
    """Let the network change nothing of its own for good: no mode, statistic, counter or cache.

    Meanwhile it works on copies of its buffers; what its containers held is put back. So are
    values of parameters, save those that a forward writes into a parameter's own memory.
    """
    training = network.training
    modules = list(network.modules())
    attributes = [dict(module.__dict__) for module in modules]
    containers = [
        (value, value.copy())
        for members in attributes
        for value in members.values()
        if type(value) in CONTAINERS
    ]
    copies: dict[int, Tensor] = {}  # One tensor may be in several places.
    values = _values(network)
    parameters = {id(parameter) for parameter in values}
    for module in modules:
        for place in (module._buffers, module.__dict__):
            for name, tensor in place.items():
                # Parameters that are plain attributes, too, stay the parameters that they are.
                if isinstance(tensor, Tensor) and id(tensor) not in parameters:
                    place[name] = copies.setdefault(id(tensor), tensor.detach().clone())
    try:
        yield
    finally:
        network.train(training)  # Modules may do more than change their mode.
        for module, members in zip(modules, attributes, strict=True):
            if module.training != members["training"]:
                module.train(members["training"])
        for module, members in zip(modules, attributes, strict=True):
            module.__dict__.clear()
            module.__dict__.update(members)
        for value, held in containers:
            value.clear()
            if isinstance(value, list):
                value.extend(held)
            else:
                value.update(held)
        for parameter, (where, copy) in values.items():
            if address_of(parameter) != address_of(where):
                parameter.data = where
            if copy is not None:
                parameter.data.copy_(copy)


def _values(network: nn.Module) -> dict[nn.Parameter, tuple[Tensor, Tensor | None]]:
    """Give parameters' values where they lie, and copies where changing the mode may change them.

    Some layers merge low-rank weights into others in eval mode.
    """
    merging = [module for module in network.modules() if type(module).train is not nn.Module.train]
    changing = {parameter for module in merging for parameter in module.parameters()}
    return {
        parameter: (parameter.data, parameter.data.clone() if parameter in changing else None)
        for parameter in network.parameters()
    }


@contextmanager
def other_random_states_kept() -> Iterator[None]:
    """Leave Python's and numpy's random numbers as they were; networks may draw from them."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


@contextmanager
def no_fused_attention() -> Iterator[None]:
    """Let ``nn.MultiheadAttention`` show its operations; in eval mode it would be a single one."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


@contextmanager
def no_cached_parametrizations() -> Iterator[None]:
    """Let parametrized tensors be computed, and none be kept by ``parametrize.cached``."""
    enabled = parametrize._cache_enabled
    parametrize._cache_enabled = 0
    try:
        yield
    finally:
        parametrize._cache_enabled = enabled


@contextmanager
def in_eval_mode(network: nn.Module) -> Iterator[None]:
    """Put a network or controllers into eval mode; afterwards each module has its own again."""
    modes = [(module, module.training) for module in network.modules()]
    training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(training)  # Modules may do more than change their mode.
        for module, mode in modes:
            module.training = mode
