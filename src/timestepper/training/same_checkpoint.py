"""The checkpoint that a training goes on from, the same one in all processes."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from timestepper.errors import RunError
from timestepper.training.run import Training

Found = tuple[dict[str, Any] | None, str | None]
"""A checkpoint, none where the training starts, and a line about why it isn't the last one."""


def same_checkpoint(training: Training, fabric: Fabric) -> Found:
    """Read the last checkpoint that can be read; all processes come here together.

    Machines may have folders of their own, of which one may be older than the others, or damaged.

    Raises:
        RunError: there is one and none can be read, or processes have different ones.
    """
    if fabric.world_size == 1:
        return _read(training)
    try:
        found, failure = _read(training), None
    except RunError as error:
        # The others wait below, and have to be told.
        found, failure = (None, None), error
    state, warning = found
    place = "nowhere" if failure else _place(state)
    own = (place, _digest(state), f" ({failure or warning})" if failure or warning else "")
    every: list[Any] = [None] * fabric.world_size
    torch.distributed.all_gather_object(every, own)
    if failure:
        raise failure
    first, *others = every
    for rank, other in enumerate(others, 1):
        if other[:2] != first[:2]:
            with_others = ", with other weights" * (other[0] == first[0])
            raise RunError(
                f"{training.run.folder}: not all processes have the same checkpoint: process 0 "
                f"would go on {first[0]}{first[2]}, process {rank} {other[0]}{with_others}"
                f"{other[2]}; copy the folder that is right to all machines, and resume"
            )
    return found


def _read(training: Training) -> Found:
    checkpoints = training.run.checkpoints
    return checkpoints.load() if training.resume and checkpoints.exist() else (None, None)


def _place(state: dict[str, Any] | None) -> str:
    """Say how far a training is."""
    if state is None:
        return "from the beginning"
    steps = f" and {batch} steps" if (batch := state.get("batch")) else ""
    return f"after epoch {state.get('epoch')}{steps}"


def _digest(state: dict[str, Any] | None) -> str:
    """Tell a checkpoint from others by how far it is, and by the network's weights."""
    digest = hashlib.sha256(_place(state).encode())
    network = state["network"] if state else {}
    for name in sorted(network, key=str):
        digest.update(str(name).encode())
        # What else there may be is refused when it is restored.
        if isinstance(value := network[name], Tensor):
            digest.update(value.detach().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
