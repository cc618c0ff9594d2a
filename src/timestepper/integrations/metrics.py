"""What a training loop logs about step sizes."""

from __future__ import annotations

from collections import Counter

from torch import nn

from timestepper.stepping import evolution_time


def step_metrics(network: nn.Module) -> dict[str, float]:
    """Measure the step sizes of an attached network as they are now, for any logger.

    Returns:
        For each stage, in order of depth, ``"evolution_time/STAGE"``, T = Σ Δt_d averaged over
        channels, and ``"mean_step_size/STAGE"``, Δt averaged over blocks and channels.

    Raises:
        AttachedError: the network is not attached.
    """
    times = evolution_time(network)
    depths = Counter(branch.stage for branch in network.time_stepping.branches)  # type: ignore[union-attr]
    metrics: dict[str, float] = {}
    for stage, time in times.items():
        metrics[f"evolution_time/{stage}"] = time
        metrics[f"mean_step_size/{stage}"] = time / depths[stage]
    return metrics
