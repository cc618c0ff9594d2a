"""The learning rate as a function of the update: no state, so nothing to save."""

from __future__ import annotations

import math

from timestepper.training.configuration import Configuration


def learning_rate(configuration: Configuration, update: int, updates_per_epoch: int) -> float:
    """Compute the learning rate of one optimizer step.

    Warm-up rises linearly, from its first share at update 0 to the full rate at its last update.
    Then ``step`` divides at its milestones (method: paper, "Implementations"), and ``cosine``
    falls as half a cosine, over what is left of the training, to zero at its end.

    Args:
        configuration: the training.
        update: number of optimizer steps made before.
        updates_per_epoch: optimizer steps in an epoch.

    Returns:
        The learning rate.
    """
    schedule, lr = configuration.schedule, configuration.optimizer.lr
    total = configuration.epochs * updates_per_epoch
    warmup = schedule.warmup_epochs * updates_per_epoch
    if update < warmup:
        return lr * (update + 1) / warmup
    if schedule.name == "step":
        passed = sum(update >= round(milestone * total) for milestone in schedule.milestones)
        return lr * schedule.gamma**passed
    return lr * 0.5 * (1 + math.cos(math.pi * (update - warmup) / (total - warmup)))
