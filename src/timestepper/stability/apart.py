"""Keep a measurement apart from what surrounds it: the user's network, autocast, inference mode."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from copy import deepcopy

import torch
from torch import nn

from timestepper.errors import StabilityError, first_line
from timestepper.stepping.undisturbed import left_as_it_was

AUTOCAST_DEVICES = ("cpu", "cuda", "mps", "xpu")


@contextmanager
def outside_modes() -> Iterator[None]:
    """Leave autocast and inference mode: numbers keep their precision and may have gradients."""
    with ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        for device in AUTOCAST_DEVICES:
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield


def copy_of(network: nn.Module) -> nn.Module:
    """Copy a network; features that it keeps come without the graph that made them.

    Raises:
        StabilityError: a part of it can't be copied.
    """
    try:
        with left_as_it_was(network):
            return deepcopy(network)
    except Exception as error:  # whatever a part raises
        raise StabilityError(
            f"the network can't be copied: {first_line(error)}; take out what copy.deepcopy "
            "refuses, and detach features that it keeps in lists"
        ) from error
