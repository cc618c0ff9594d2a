"""What a run's folder holds, read for the report; nothing is computed here."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from timestepper.data.fingerprint import differences
from timestepper.errors import RunError
from timestepper.training.commands import resuming
from timestepper.training.configuration import Configuration
from timestepper.training.explanations import Explanations, read_explanations
from timestepper.training.run import History, Run
from timestepper.training.step_history import StepHistory, read_step_history


@dataclass(frozen=True)
class Evidence:
    """What is known of a run.

    Attributes:
        name: what the page calls it.
        run: its folder.
        configuration: what was trained.
        data: on what, as :meth:`~timestepper.data.DataSet.fingerprint` describes it.
        history: a row for each epoch.
        provenance: by what code, as the lines of the run's file.
        steps: the step sizes at the start and after each epoch; empty for a plain network.
        explanations: what they depended on, likewise; empty where it was not recorded.
    """

    name: str
    run: Run
    configuration: Configuration
    data: dict[str, Any]
    history: History
    provenance: tuple[str, ...]
    steps: StepHistory
    explanations: Explanations

    @property
    def folder(self) -> str:
        """Its folder, as a command can be given it, and another name can begin with it."""
        folder = self.run.folder
        if folder.name in ("", ".."):
            folder = folder.resolve()
        return f"./{folder}" if str(folder).startswith("-") else str(folder)

    @property
    def split(self) -> str:
        """On which images each epoch was evaluated."""
        return "validation" if "validation_loss" in self.history[-1] else "test"

    @property
    def epochs(self) -> int:
        """How many epochs are done."""
        return len(self.history)

    @property
    def is_finished(self) -> bool:
        """Whether all epochs are done."""
        return self.epochs >= self.configuration.epochs

    @property
    def has_steps(self) -> bool:
        """Whether it is trained with step sizes."""
        return self.configuration.stepping.controller != "none"

    def is_on_images_of(self, other: Evidence) -> bool:
        """Tell whether it is trained and evaluated on the same images as another run."""
        named = self.configuration.data.name == other.configuration.data.name
        return named and self.split == other.split and not differences(self.data, other.data)

    def curve(self, column: str) -> list[float]:
        """Return a column of the metrics, a number for each epoch."""
        return [row[column] for row in self.history]


def read_evidence(run: Run, name: str) -> Evidence:
    """Read a run's folder.

    Args:
        run: the run.
        name: what the page calls it.

    Raises:
        RunError: it is not a run, has no epoch yet, or one of its files is broken.
        ConfigurationError: its configuration is invalid.
    """
    configuration = run.read_configuration()
    if not run.metrics.exists():
        raise RunError(
            f"{run.folder} has no epoch yet; report it when its first one is done, or wait for "
            "that with --watch"
        )
    history = _read_metrics(run)
    explains = _has_steps(configuration) and configuration.stepping.explain
    steps = read_step_history(run.step_history) if _has_steps(configuration) else {}
    return Evidence(
        name=name,
        run=run,
        configuration=configuration,
        data=_read_data(run),
        history=history,
        provenance=_lines(run.provenance),
        steps=steps,
        explanations=read_explanations(run.explanation) if explains else [],
    )


def _has_steps(configuration: Configuration) -> bool:
    return configuration.stepping.controller != "none"


def _read_metrics(run: Run) -> History:
    """Read the metrics.

    Raises:
        RunError: the file is empty, or broken.
    """
    try:
        rows = run.read_metrics()
        split = "validation" if "validation_loss" in rows[-1] else "test"
        needed = {"epoch", "lr", "train_loss", "train_accuracy", "images_per_second"}
        needed |= {f"{split}_loss", f"{split}_accuracy"}
        if lacking := sorted(needed - rows[-1].keys()):
            raise ValueError(f"it has no column {lacking[0]}")
        if [row["epoch"] for row in rows] != list(range(1, len(rows) + 1)):
            raise ValueError("its epochs are not 1, 2, 3 and so on")
    except (OSError, ValueError) as error:
        raise RunError(
            f"{run.metrics} is broken ({error}); {resuming(run.folder)} writes it anew"
        ) from error
    return rows


def _read_data(run: Run) -> dict[str, Any]:
    try:
        data: dict[str, Any] = json.loads(run.data.read_text(encoding="utf-8"))
        counts = [data[key] for key in ("training_images", "test_images")]
        counts += [*data["shape"], len(data["classes"]), data.get("validation_images", 0)]
        if len(data["shape"]) != 3 or not all(isinstance(count, int) for count in counts):
            raise ValueError("it does not describe images")
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise RunError(
            f"{run.data}, which says what the run was trained on, is missing or broken; another "
            "run on the same images has the same file"
        ) from error
    return data


def _lines(path: Path) -> tuple[str, ...]:
    """Read the lines of a text file, none where it is missing."""
    try:
        return tuple(path.read_text(encoding="utf-8", errors="replace").splitlines())
    except OSError:
        return ()
