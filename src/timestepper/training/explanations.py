"""What the step sizes depended on through a training."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from timestepper.errors import RunError
from timestepper.files import write_atomically
from timestepper.stepping import Explanation
from timestepper.training.commands import resuming

Explanations = list[dict[str, Explanation]]
"""By stage, at the start and after each epoch; empty where a training does not record them."""

PARTS = ("channel", "position", "weights", "deviation")


def explanation_columns(history: Explanations) -> dict[str, float]:
    """Give the newest explanation's numbers for the metrics, as ``explained/STAGE/PART``."""
    return {
        f"explained/{stage}/{part}": getattr(explanation, part)
        for explanations in history[-1:]
        for stage, explanation in explanations.items()
        for part in PARTS
    }


def to_state(history: Explanations) -> list[dict[str, Any]]:
    """Take explanations apart into what a checkpoint can hold."""
    return [{stage: asdict(one) for stage, one in epoch.items()} for epoch in history]


def from_state(state: list[dict[str, Any]]) -> Explanations:
    """Put them together again."""
    return [{stage: Explanation(**one) for stage, one in epoch.items()} for epoch in state]


def write_explanations(history: Explanations, path: Path) -> None:
    """Write explanations as safetensors.

    ``STAGE/channel``, ``STAGE/position``, ``STAGE/weights`` and ``STAGE/deviation`` are float64
    ``(1 + epochs,)``, ``STAGE/sensitivity`` is float32 ``(1 + epochs, depth, depth)``; ``blocks``
    in the metadata is JSON, the names of each stage's blocks.
    """
    tensors: dict[str, Tensor] = {}
    for stage in history[0]:
        for part in PARTS:
            values = [getattr(epoch[stage], part) for epoch in history]
            tensors[f"{stage}/{part}"] = torch.tensor(values, dtype=torch.float64)
        tensors[f"{stage}/sensitivity"] = torch.stack([e[stage].sensitivity for e in history])
    blocks = {stage: explanation.blocks for stage, explanation in history[0].items()}
    write_atomically(path, save(tensors, {"blocks": json.dumps(blocks)}))


def read_explanations(path: Path) -> Explanations:
    """Read explanations back.

    Raises:
        RunError: the file is missing or broken.
    """
    try:
        with safe_open(path, "pt") as file:
            blocks = dict(json.loads(file.metadata()["blocks"]))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return [
            {
                stage: Explanation(
                    blocks=tuple(names),
                    sensitivity=tensors[f"{stage}/sensitivity"][epoch],
                    **{part: tensors[f"{stage}/{part}"][epoch].item() for part in PARTS},
                )
                for stage, names in blocks.items()
            }
            for epoch in range(len(tensors[f"{next(iter(blocks))}/deviation"]))
        ]
    except (
        *(OSError, SafetensorError, LookupError, TypeError, ValueError),
        *(StopIteration, RuntimeError),
    ) as error:
        raise RunError(
            f"{path} is missing or broken; only runs with stepping.explain have one, and "
            f"{resuming(path.parent)} writes it anew"
        ) from error
