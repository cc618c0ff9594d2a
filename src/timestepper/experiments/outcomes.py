"""What the trainings of an experiment came to."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from timestepper.errors import RunError
from timestepper.experiments.plan import PlannedRun


@dataclass(frozen=True)
class Outcome:
    """A finished training.

    Attributes:
        planned: what it was.
        history: a row for each epoch, as a run's metrics have it.
        commits: the code that made it; several where it was interrupted in between.
        hardware: what it was made on, likewise.
    """

    planned: PlannedRun
    history: list[dict[str, float]]
    commits: tuple[str, ...]
    hardware: tuple[str, ...]

    @property
    def error(self) -> float:
        """Share of the test images that are wrong after the last epoch, in percent."""
        return 100 * (1 - self.history[-1]["test_accuracy"])

    @property
    def loss(self) -> float:
        """Mean cross-entropy of the test images after the last epoch, in nats."""
        return self.history[-1]["test_loss"]

    def accuracy_under_noise(self, column: int) -> float:
        """Average the draws of one deviation, by its place among all, in percent."""
        return 100 * float(np.mean([draw[column] for draw in self._noise["accuracy"]]))

    def loss_under_noise(self, column: int) -> float:
        """Average the draws of one deviation, by its place among all, in nats."""
        return float(np.mean([draw[column] for draw in self._noise["loss"]]))

    def growth_under_noise(self, column: int) -> float:
        """Tell how much more loss there is than at the first deviation, in nats."""
        return self.loss_under_noise(column) - self.loss_under_noise(0)

    @property
    def log10_bound(self) -> float:
        """Bound of Proposition 1, as log10; NaN where there is none."""
        bound = _measured(self.planned.bound_file)["log10_bound"]
        return math.nan if bound is None else float(bound)

    @cached_property
    def _noise(self) -> dict[str, Any]:
        """What was measured under noise, see :class:`~timestepper.robustness.noise.NoiseCurve`."""
        return _measured(self.planned.noise_file)


def _measured(file: Path) -> dict[str, Any]:
    """Read a measurement of a trained network.

    Raises:
        RunError: the file is broken.
    """
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{file} is broken; remove it, and it is measured anew") from error
    return content


def read_outcomes(planned: Sequence[PlannedRun]) -> list[Outcome]:
    """Read those trainings that are done.

    Raises:
        RunError: a file of theirs is missing or broken.
    """
    return [_read(each) for each in planned if each.state == "done"]


def _read(planned: PlannedRun) -> Outcome:
    run = planned.run
    try:
        history = run.read_metrics()
        facts = run.provenance.read_text(encoding="utf-8").splitlines()
        if len(history) != planned.configuration.epochs:
            raise ValueError(f"it has {len(history)} epochs, not {planned.configuration.epochs}")
    except (OSError, ValueError) as error:
        raise RunError(
            f"{run.folder} is finished, but {run.metrics.name} or {run.provenance.name} is missing "
            f"or broken ({error}); remove the folder to train anew"
        ) from error
    return Outcome(planned, history, _facts(facts, "commit"), _facts(facts, "hardware"))


def _facts(lines: Sequence[str], kind: str) -> tuple[str, ...]:
    values = (line.partition(f"  {kind}: ")[2] for line in lines)
    return tuple(dict.fromkeys(filter(None, values)))
