"""Whether a training can go on from a checkpoint, and a network be used on the images there are."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from timestepper.data import DataSet
from timestepper.data.fingerprint import differences
from timestepper.errors import RunError
from timestepper.training.configuration import Configuration
from timestepper.training.run import Run

log = logging.getLogger(__name__)

MEASURED = {"epoch", "lr", "train_loss", "train_accuracy", "images_per_second"}
"""Metrics of every training."""
ADDED: dict[str, Any] = {
    "penalty": None,
    "last_penalty": None,
    "skipped": None,
    "batch_size": None,
    "validation": 0,
    "explanations": [],
}
"""What checkpoints of earlier versions lack, and what it would have been."""
OF_TEST_IMAGES = {"test_images", "test_digest"}
"""What a fingerprint says of test images, with which a network has nothing to do."""


def require_same_training(
    state: dict[str, Any], configuration: Configuration, images: dict[str, Any], run: Run
) -> None:
    """Refuse a checkpoint that lacks what a training's settings need, or has more.

    Args:
        state: the checkpoint's.
        configuration: of the training that is to go on from it.
        images: the :meth:`~timestepper.data.DataSet.fingerprint` of what it is to go on with.
        run: where checkpoint and configuration are from.

    Raises:
        RunError: it was written with other settings, or the run was begun with other images.
    """
    held_out, explanations = state.get("validation"), state.get("explanations")
    within_epoch = state.get("batch") != 0 and state["batch_size"] is not None
    explains = isinstance(explanations, list) and len(explanations) > 0
    same = {
        "ema_decay": (state.get("ema") is None) == (configuration.ema_decay is None),
        "stability.penalty": (
            (state.get("penalty") is None) == (configuration.stability.penalty == "none")
        ),
        "optimizer.skip_not_finite": (
            (state.get("skipped") is None) != configuration.optimizer.skip_not_finite
        ),
        "data.validation": type(held_out) is int and held_out == configuration.data.validation,
        "stepping.explain": explains == configuration.stepping.explain,
        "batch_size": not within_epoch or state["batch_size"] == configuration.batch_size,
    }
    for setting, is_same in same.items():
        if not is_same:
            raise RunError(
                f"the checkpoint was written with another {setting}; put back the configuration "
                f"that {run.configuration} had"
            )
    if changed := _changes(images, run):
        raise RunError(
            f"{_not_those(changed, run)}; put them back, or give a training on these another folder"
        )


def require_same_images(images: DataSet, run: Run) -> None:
    """Refuse images that a run's network was not trained for; warn of other test images.

    Raises:
        RunError: the run was begun with other training images or classes, so that labels and
            normalisation are not those that the network knows.
    """
    changed = _changes(images.fingerprint(), run)
    if needed := [name for name in changed if name not in OF_TEST_IMAGES]:
        raise RunError(
            f"{_not_those(needed, run)}; put them back, or name their place in {run.configuration}"
        )
    if changed:
        log.warning("of the test images: %s", _not_those(changed, run))


def _changes(images: dict[str, Any], run: Run) -> list[str]:
    """Name what is not as the run's record says, where that is there and whole."""
    try:
        begun = json.loads(run.data.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return differences(begun, images) if isinstance(begun, dict) else []


def _not_those(changed: Sequence[str], run: Run) -> str:
    what = ", ".join(name.replace("_", " ") for name in changed)
    return (
        f"the images are not those that {run.folder} was begun with, which {run.data} describes "
        f"(not the same: {what})"
    )


def require_whole(
    state: dict[str, Any], fresh: dict[str, Any], parameters: Sequence[Tensor], run: Run
) -> None:
    """Refuse a checkpoint that a training can't have written, or an earlier version has.

    Args:
        state: the checkpoint's, written with the same settings.
        fresh: what the training itself would write before its first step.
        parameters: what is trained, in the optimizer's order.
        run: where both are from.

    Raises:
        RunError: something is missing, or is of another kind or size than it has to be.
    """
    for place in _unlike(state, fresh, parameters):
        raise RunError(
            f"{run.checkpoints.folder}: the checkpoint's {place} is not what this version of "
            "timestepper writes for this training; start the training anew"
        )


def _unlike(
    state: dict[str, Any], fresh: dict[str, Any], parameters: Sequence[Tensor]
) -> Iterator[str]:
    """Name what is unlike, from the simple to what depends on it; weights are looked at later."""
    yield from (name for name in fresh if name not in state)
    yield from (name for name in ("epoch", "batch") if type(state[name]) is not int)
    for name in ("penalty", "meter", "skipped"):
        yield from _differing(state[name], fresh[name], name)
    yield from _unlike_optimizer(state["optimizer"], fresh["optimizer"], parameters)
    last = state["last_penalty"]
    if last is not None and (not isinstance(last, Tensor) or last.shape != ()):
        yield "last_penalty"
    for name in ("generators", "explanations", "history"):
        if not isinstance(state[name], list | tuple):
            yield name
    for own in state["generators"]:
        expected: dict[str, Tensor] = fresh["generators"][0]
        if not isinstance(own, dict) or "cpu" not in own:
            yield "generators"
        for device in own.keys() & expected.keys():
            yield from _differing(own[device], expected[device], "generators")
    epochs = len(state["history"])
    if not 0 <= state["epoch"] == epochs or state["batch"] < 0:
        yield "epoch"
    split = "validation" if fresh["validation"] else "test"
    measured = MEASURED | {f"{split}_loss", f"{split}_accuracy"}
    for row in state["history"]:
        numbers = isinstance(row, dict) and all(type(v) in (int, float) for v in row.values())
        if not numbers or not row.keys() >= measured or row.keys() != state["history"][0].keys():
            yield "history"
    for explanation in state["explanations"]:
        yield from _differing(explanation, fresh["explanations"][0], "explanations")
    if fresh["explanations"] and len(state["explanations"]) != 1 + epochs:
        yield "explanations"
    steps = {name: rows.expand(1 + epochs, -1) for name, rows in fresh["step_history"].items()}
    yield from _differing(state["step_history"], steps, "step_history")


def _unlike_optimizer(
    state: Any, fresh: dict[str, Any], parameters: Sequence[Tensor]
) -> Iterator[str]:
    """Look at settings, and at the momentum, which a fresh optimizer lacks."""
    if not isinstance(state, dict) or not isinstance(state.get("state"), dict):
        yield "optimizer"
    yield from _differing(state, {**fresh, "state": state["state"]}, "optimizer")
    for number, kept in state["state"].items():
        is_kept = isinstance(kept, dict) and kept.keys() == {"momentum_buffer"}
        if number not in range(len(parameters)) or not is_kept:
            yield "optimizer"
        momentum = kept["momentum_buffer"]
        if momentum is not None:
            yield from _differing(momentum, parameters[number], "optimizer")


def _differing(value: Any, expected: Any, name: str) -> Iterator[str]:
    """Yield the name if a value is not of the same kind and size, down to single tensors."""
    if isinstance(expected, Tensor):
        is_like = isinstance(value, Tensor) and value.dtype == expected.dtype
        if not is_like or value.shape != expected.shape:
            yield name
    elif type(value) is not type(expected):
        yield name
    elif isinstance(expected, dict):
        if value.keys() != expected.keys():
            yield name
        for key, one in expected.items():
            yield from _differing(value[key], one, name)
    elif isinstance(expected, list | tuple):
        if len(value) != len(expected):
            yield name
        for one, other in zip(value, expected, strict=True):
            yield from _differing(one, other, name)
