"""``timestepper steps``."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console

from timestepper.cli.arguments import add_output, add_run, open_run, output_path
from timestepper.errors import ConfigurationError, RunError
from timestepper.report import plot_step_sizes, step_size_table
from timestepper.training.run import Run

EXAMPLES = (
    "timestepper steps runs/digits-cifar_resnet20-lstm-0 --output steps.png",
    "timestepper steps runs/mine --checkpoint best --output steps.svg",
)


def add_arguments(parser: ArgumentParser) -> None:
    """Add this command's arguments."""
    add_run(parser)
    add_output(parser, "RUN/step_sizes.png")


def run(parser: ArgumentParser, parsed: Namespace) -> int:
    """Print the table and write the plot."""
    path = output_path(parsed, Run(Path(parsed.run)).steps_plot)
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise ConfigurationError(f"{path}: a plot's name ends in .png, .svg or .pdf")
    trained = open_run(parsed)
    if trained.configuration.stepping.controller == "none":
        raise RunError(f"{parsed.run} was trained without step sizes (stepping.controller none)")
    Console().print(step_size_table(trained.network))
    plot_step_sizes(trained.network, path)
    print(f"plot: {path}")
    return 0
