"""Whether a training can go on from a checkpoint."""

from __future__ import annotations

from typing import Any

from timestepper.errors import RunError
from timestepper.training.configuration import Configuration
from timestepper.training.run import Run


def require_same_settings(state: dict[str, Any], configuration: Configuration, run: Run) -> None:
    """Refuse a checkpoint that lacks what a training's settings need, or has more.

    Args:
        state: the checkpoint's.
        configuration: of the training that is to go on from it.
        run: where both are from.

    Raises:
        RunError: it was written with other settings, or by an earlier version.
    """
    same = {
        "ema_decay": (state["ema"] is None) == (configuration.ema_decay is None),
        "stability.penalty": (
            (state.get("penalty") is None) == (configuration.stability.penalty == "none")
        ),
        "optimizer.skip_not_finite": (
            (state.get("skipped") is None) != configuration.optimizer.skip_not_finite
        ),
        "data.validation": state.get("validation", 0) == configuration.data.validation,
        "stepping.explain": bool(state.get("explanations")) == configuration.stepping.explain,
    }
    for setting, is_same in same.items():
        if not is_same:
            raise RunError(
                f"the checkpoint was written with another {setting}; put back the configuration "
                f"that {run.configuration} had"
            )
    if "step_history" not in state:
        raise RunError(
            f"the checkpoint in {run.folder} was written by an earlier version of timestepper; "
            "start the training anew"
        )
