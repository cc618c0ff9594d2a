"""Loss and accuracy over epochs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from timestepper.report.pictures import save


def plot_curves(history: Sequence[dict[str, float]], path: Path) -> None:
    """Plot training curves of one run, and those of the images that it was evaluated on.

    Args:
        history: a row for each epoch, as a run's metrics have it.
        path: the picture, of the format that its suffix names.
    """
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    epochs = [row["epoch"] for row in history]
    for axes, quantity, scale in zip(
        figure.subplots(1, 2), ("loss", "accuracy"), (1, 100), strict=True
    ):
        for split, style in (("train", "--"), ("validation", "-"), ("test", "-")):
            if f"{split}_{quantity}" not in history[0]:
                continue
            values = [scale * row[f"{split}_{quantity}"] for row in history]
            axes.plot(epochs, values, style, marker="." if len(epochs) < 3 else None, label=split)
        axes.set_xlabel("epoch")
        axes.set_ylabel("cross-entropy" if quantity == "loss" else "accuracy (%)")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    save(figure, path)
