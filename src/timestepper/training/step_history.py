"""How the step sizes moved through a training."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from timestepper.errors import RunError
from timestepper.files import write_atomically
from timestepper.stepping import step_sizes
from timestepper.training.commands import resuming

StepHistory = dict[str, Tensor]
"""For each branch, in order of depth, its step sizes at the start and after each epoch, float32
``(1 + epochs, channels)``; empty for a plain network."""


def extended(history: StepHistory, network: nn.Module) -> StepHistory:
    """Add a network's present step sizes.

    Args:
        history: what was recorded before.
        network: attached, or plain.
    """
    if not hasattr(network, "time_stepping"):
        return {}
    return {
        name: torch.cat([*([history[name]] if history else []), row.detach().float().cpu()[None]])
        for name, row in step_sizes(network).items()
    }


def write_step_history(history: StepHistory, path: Path) -> None:
    """Write a history as safetensors, the order of depth in its names."""
    numbered = {f"{number:04}.{name}": rows for number, (name, rows) in enumerate(history.items())}
    write_atomically(path, save(numbered))


def read_step_history(path: Path) -> StepHistory:
    """Read a history back.

    Raises:
        RunError: the file is missing or broken.
    """
    try:
        numbered = load(path.read_bytes())
        times = {len(rows) if rows.ndim == 2 else 0 for rows in numbered.values()}
        if len(times) != 1 or 0 in times:
            raise ValueError("it has not as many rows of each block")
    except (OSError, ValueError, SafetensorError) as error:
        raise RunError(
            f"{path} is missing or broken; only runs with step sizes have one, and "
            f"{resuming(path.parent)} writes it anew"
        ) from error
    return {name.partition(".")[2]: numbered[name] for name in sorted(numbered)}
