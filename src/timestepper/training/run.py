"""A run: the folder in which a training keeps everything it knows."""

from __future__ import annotations

import csv
import io
import json
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from timestepper.data import DataSet
from timestepper.errors import RunError
from timestepper.files import read_checked, write_atomically, write_checked
from timestepper.provenance import provenance
from timestepper.training.checkpoints import Checkpoints
from timestepper.training.commands import resuming
from timestepper.training.configuration import Configuration
from timestepper.training.recipes import read_configuration, write_configuration

PATIENCE = 6
"""Seconds to wait for another process: one that is killed may leave helpers that read images, and
these notice it after five."""

History = list[dict[str, float]]
"""What was measured, a dictionary for each epoch."""


class Run:
    """The paths in a run's folder.

    Args:
        folder: the run's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lock = folder / ".lock"
        self.configuration = folder / "configuration.yaml"
        self.data = folder / "data.json"
        self.metrics = folder / "metrics.csv"
        self.checkpoints = Checkpoints(folder / "checkpoints")
        self.provenance = folder / "provenance.txt"
        self.step_history = folder / "step_sizes.safetensors"
        self.explanation = folder / "explanation.safetensors"
        self.events = folder / "tensorboard"
        self.folded = folder / "folded.safetensors"
        self.curves_plot = folder / "curves.png"
        self.steps_plot = folder / "step_sizes.png"
        self.explanation_plot = folder / "explanation.png"
        self.report = folder / "report.html"
        self.bound = folder / "bound.json"

    def noise(self, digest: str) -> Path:
        """Return where an experiment keeps what it measured under noise.

        Args:
            digest: of the measurement's settings; ``*`` for a pattern of all such files.
        """
        return self.folder / f"noise-{digest}.json"

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Keep other processes from training in this folder, and tell what can't be written there.

        Raises:
            RunError: another process trains in it; or a file can't be written, as on a full disk.
        """
        again = f"continue with: {resuming(self.folder)}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            held = FileLock(self.lock).acquire(timeout=PATIENCE)
        except Timeout as error:
            raise RunError(
                f"another process is training in {self.folder}; wait for it, or stop it and {again}"
            ) from error
        except OSError as error:
            raise RunError(f"can't write the run folder {self.folder}: {error.strerror}") from error
        try:
            with held:
                yield
        except OSError as error:
            raise RunError(
                f"{error.filename or self.folder}: {error.strerror or error}; what was saved "
                f"before is kept; mend this and {again}"
            ) from error

    def is_in_training(self) -> bool:
        """Tell whether a process trains in this folder now."""
        if not self.lock.exists():
            return False
        try:
            with FileLock(self.lock).acquire(timeout=0):
                return False
        except Timeout:
            return True

    def create(self, configuration: Configuration, images: DataSet, device: torch.device) -> None:
        """Make the folder and write down what is trained on what, and by what code.

        Raises:
            RunError: the folder exists already.
            OSError: it can't be written.
        """
        self.require_new()
        self.folder.mkdir(parents=True, exist_ok=True)
        write_configuration(configuration, self.configuration)
        self.start(images, device)

    def start(self, images: DataSet, device: torch.device) -> None:
        """Write down on what is trained, and by what code, from the first step."""
        write_atomically(self.data, json.dumps(images.fingerprint(), indent=1).encode())
        self.provenance.unlink(missing_ok=True)
        self.add_provenance("from the start", device)

    def add_provenance(self, since: str, device: torch.device) -> None:
        """Note what code trains from here on.

        Args:
            since: how far the training is.
            device: on what.
        """
        facts = provenance(device, command=f"timestepper train --recipe {self.configuration.name}")
        with self.provenance.open("a", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in (f"{since}:", *(f"  {fact}" for fact in facts)))

    def is_empty(self) -> bool:
        """Tell whether there is a folder that holds nothing, but for a lock perhaps."""
        return self.folder.is_dir() and all(path == self.lock for path in self.folder.iterdir())

    def require_new(self) -> None:
        """Raise :class:`RunError` if there is something already where the run would go."""
        if self.is_empty():
            return
        if self.configuration.exists():
            raise RunError(
                f"run folder {self.folder} exists already; continue it with "
                f"{shlex.join(['--resume', str(self.folder)])}, or give this training another one "
                "with --folder"
            )
        if self.folder.exists():
            raise RunError(
                f"{self.folder} exists already and is not a run; give this training another "
                "one with --folder"
            )

    def read_configuration(self) -> Configuration:
        """Read the configuration back.

        Raises:
            RunError: the folder is missing, or is not a run.
            ConfigurationError: the file has been changed into something invalid.
        """
        if not self.folder.exists():
            raise RunError(f"there is no run folder {self.folder}")
        if not self.configuration.is_file():
            raise RunError(
                f"{self.folder} is not a run: it has no configuration.yaml; name a folder that "
                "`timestepper train` has made"
            )
        return read_configuration(self.configuration)

    def write_metrics(self, history: Sequence[dict[str, float]]) -> None:
        """Write the whole table anew, so that no epoch is ever in it twice."""
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, list(history[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)
        write_checked(self.metrics, text.getvalue().encode())

    def read_metrics(self) -> History:
        """Read the table back.

        Raises:
            OSError: it can't be read.
            ValueError: it is damaged, or not a table of at least one epoch.
        """
        rows = csv.DictReader(io.StringIO(read_checked(self.metrics).decode(), newline=""))
        try:
            history = [{key: float(value) for key, value in row.items()} for row in rows]
        except (TypeError, csv.Error) as error:
            raise ValueError(str(error)) from error
        if not history:
            raise ValueError("it has no row")
        return history


@dataclass(frozen=True)
class Training:
    """A training that is to be made.

    Attributes:
        run: the run's folder; with ``resume`` an existing one.
        configuration: what to train.
        resume: go on from the last checkpoint; on one CPU the final weights are bit for bit
            those of an uninterrupted training.
    """

    run: Run
    configuration: Configuration
    resume: bool
