"""What penalties on the bound of Proposition 1 cost in accuracy and take off the bound.

Trains a CIFAR ResNet-20 with LSTM step sizes on digits for each penalty, strength and weight decay,
over seeds, and prints test accuracy, log10 of the bound from the first state to the last (computed
to convergence), the growth of the perturbation that grows most at some test images, and how many
trainings diverged.

    python benchmarks/training_for_stability.py --output results/training_for_stability.csv
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import statistics
import tempfile
from pathlib import Path
from typing import Literal

from rich.console import Console

from timestepper.errors import TimestepperError
from timestepper.provenance import provenance
from timestepper.stability import measure_stability
from timestepper.training.configuration import Configuration, StabilityConfiguration
from timestepper.training.loop import train
from timestepper.training.run import Run
from timestepper.training.trained import load_trained

Penalty = Literal["none", "bound", "spectral"]
SETTINGS: list[tuple[Penalty, float, float]] = [
    ("none", 0.0, 1e-4),
    ("bound", 0.01, 1e-4),
    ("bound", 0.1, 1e-4),
    ("bound", 0.3, 1e-4),
    ("spectral", 0.001, 1e-4),
    ("spectral", 0.01, 1e-4),
    ("spectral", 0.03, 1e-4),
    ("spectral", 0.1, 1e-4),
    ("none", 0.0, 1e-3),
    ("none", 0.0, 1e-2),
]
"""Penalty, its strength, weight decay."""
COLUMNS = ["penalty", "strength", "weight_decay", "accuracy", "log10_bound", "worst", "diverged"]
IMAGES = 2


def configure(
    penalty: Penalty, strength: float, decay: float, epochs: int, seed: int
) -> Configuration:
    """Make a training's configuration."""
    default = Configuration()
    return dataclasses.replace(
        default,
        stability=StabilityConfiguration(penalty=penalty, strength=strength),
        optimizer=dataclasses.replace(default.optimizer, weight_decay=decay),
        epochs=epochs,
        accelerator="cpu",
        seed=seed,
    )


def measure(configuration: Configuration, folder: Path) -> tuple[float, float, float]:
    """Train; give test accuracy, log10 of the bound, and the worst growth."""
    run = Run(folder)
    train(run, configuration, resume=False, console=Console(quiet=True))
    trained = load_trained(run)
    accuracy = run.checkpoints.load()[0]["history"][-1]["test_accuracy"]
    measured = measure_stability(trained.network, trained.some_images(IMAGES))
    assert measured.bound is not None
    return accuracy, measured.bound, measured.worst


def over_seeds(values: list[float], digits: int) -> str:
    """Write mean and range."""
    if not values:
        return "-"
    mean, low, high = statistics.mean(values), min(values), max(values)
    return f"{mean:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def main() -> None:
    """Train everything and print a line for each setting."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path, help="CSV file to write")
    options = parser.parse_args()
    rows = []
    for penalty, strength, decay in SETTINGS:
        found = []
        for seed in range(options.seeds):
            configuration = configure(penalty, strength, decay, options.epochs, seed)
            with tempfile.TemporaryDirectory() as folder:
                try:
                    found.append(measure(configuration, Path(folder) / "run"))
                except TimestepperError as error:
                    print(f"{penalty} {strength:g}, seed {seed}: {error}")
        accuracies, bounds, growths = zip(*found, strict=True) if found else ([], [], [])
        rows.append(
            [
                penalty,
                f"{strength:g}",
                f"{decay:g}",
                over_seeds([100 * accuracy for accuracy in accuracies], 1),
                over_seeds(list(bounds), 2),
                over_seeds(list(growths), 2),
                options.seeds - len(found),
            ]
        )
        print(*rows[-1], sep="  ", flush=True)
    if options.output:
        with options.output.open("w", newline="") as file:
            file.writelines(f"# {line}\n" for line in provenance())
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            writer.writerows(rows)


if __name__ == "__main__":
    main()
