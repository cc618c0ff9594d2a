"""States of the random generators, on which drop path and dropout depend."""

from __future__ import annotations

from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

States = list[dict[str, Tensor]]
"""For each process the state of its generators, by device."""


def generator_states(fabric: Fabric) -> States:
    """Return the states of all processes, which come here together."""
    own = {"cpu": torch.get_rng_state()}
    if fabric.device.type == "cuda":
        own["cuda"] = torch.cuda.get_rng_state(fabric.device)
    if fabric.world_size == 1:
        return [own]
    every: list[Any] = [None] * fabric.world_size
    torch.distributed.all_gather_object(every, own)
    return every


def restore_generators(states: States, fabric: Fabric) -> None:
    """Put this process's generators back, if it is one of those that were saved."""
    if fabric.global_rank < len(states):
        own = states[fabric.global_rank]
        torch.set_rng_state(own["cpu"])
        if fabric.device.type == "cuda" and "cuda" in own:
            torch.cuda.set_rng_state(own["cuda"], fabric.device)
