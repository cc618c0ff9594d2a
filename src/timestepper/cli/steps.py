"""``timestepper steps``."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console

from timestepper.cli.arguments import add_output, add_run, open_run, output_path
from timestepper.errors import ConfigurationError, RunError
from timestepper.report import (
    explanation_table,
    plot_explanations,
    plot_step_sizes,
    step_size_table,
)
from timestepper.stepping import explain
from timestepper.training.build import build_network
from timestepper.training.commands import resuming
from timestepper.training.explanations import read_explanations
from timestepper.training.run import Run
from timestepper.training.trained import Trained

EXAMPLES = (
    "timestepper steps runs/digits-cifar_resnet20-lstm-0",
    "timestepper steps runs/mine --checkpoint best --output steps.svg",
    "timestepper steps runs/mine --explain",
)


def add_arguments(parser: ArgumentParser) -> None:
    """Add this command's arguments."""
    add_run(parser)
    parser.add_argument(
        "--explain",
        action="store_true",
        help="show what the step sizes depend on instead: channel, position in the stage, weights",
    )
    add_output(parser, "RUN/step_sizes.png, with --explain RUN/explanation.png")


def run(parser: ArgumentParser, parsed: Namespace) -> int:
    """Print the table and write the plot."""
    run = Run(Path(parsed.run))
    plot = run.explanation_plot if parsed.explain else run.steps_plot
    path = output_path(parsed, plot, is_plot=True)
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise ConfigurationError(f"{path}: a plot's name ends in .png, .svg or .pdf")
    controller = run.read_configuration().stepping.controller
    if controller == "none":
        raise RunError(f"{parsed.run} was trained without step sizes (stepping.controller none)")
    if parsed.explain and isinstance(controller, float):
        raise RunError(
            f"{parsed.run} was trained with a fixed step size (stepping.controller {controller}): "
            "there is nothing to explain"
        )
    trained = open_run(parsed)
    if parsed.explain:
        _explain(run, trained, path)
    else:
        Console().print(step_size_table(trained.network))
        plot_step_sizes(trained.network, path)
    print(f"plot: {path}")
    return 0


def _explain(run: Run, trained: Trained, path: Path) -> None:
    """Explain the start, the checkpoint, and what was recorded between them."""
    end = explain(trained.network)
    if trained.configuration.stepping.explain:
        recorded = read_explanations(run.explanation)
        if any(epoch.keys() != end.keys() for epoch in recorded):
            raise RunError(
                f"{run.explanation} belongs to another network; "
                f"{resuming(run.folder)} writes it anew"
            )
    else:
        start = build_network(trained.configuration, trained.images).to(trained.fabric.device)
        recorded = [explain(start)]
    # A checkpoint from within the first epoch has seen none.
    last = max(1, trained.epochs)
    course = {**dict(enumerate(recorded[:last])), last: end}
    Console().print(explanation_table(course))
    if not trained.configuration.stepping.explain:
        print(
            "what lies between was not recorded; to record it, train with --stepping.explain true"
        )
    plot_explanations(course, path)
