"""``timestepper demo``."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from scipy.stats import binomtest
from torch import nn

from timestepper.errors import RunError
from timestepper.report import step_size_table
from timestepper.stepping import step_sizes
from timestepper.training.configuration import Configuration, SteppingConfiguration
from timestepper.training.evaluation import EVALUATION_BATCH, evaluate
from timestepper.training.folded import load_plain
from timestepper.training.loop import train
from timestepper.training.progress import say
from timestepper.training.recipes import find_recipe, read_configuration
from timestepper.training.run import Run
from timestepper.training.trained import Trained, load_trained

EXAMPLES = ("timestepper demo", "timestepper demo --folder runs/another-demo")
CONTROLLERS = {"plain": "none", "time-stepped": "lstm"}


def add_arguments(parser: ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument(
        "--folder",
        type=str,
        default="runs/demo",
        metavar="FOLDER",
        help="where the two runs go; what is finished there is not trained again",
    )


def run(parser: ArgumentParser, parsed: Namespace) -> int:
    """Train both, compare, fold."""
    console = Console()
    recipe = read_configuration(find_recipe("demo"))
    trained: dict[str, Trained] = {}
    for side, controller in CONTROLLERS.items():
        target = Run(Path(parsed.folder) / side)
        configuration = dataclasses.replace(recipe, stepping=SteppingConfiguration(controller))
        where = escape(str(target.folder))
        console.print(f"\n[bold]{side}[/bold]: {configuration.network.name} in {where}")
        _train_rest(target, configuration, console)
        trained[side] = load_trained(target)
    stepped = trained["time-stepped"]
    folder = Run(Path(parsed.folder) / "time-stepped")
    folded = load_plain(stepped.configuration, stepped.images, folder.folded)
    networks = {
        "plain": trained["plain"].network,
        "time-stepped": stepped.network,
        "folded": folded.to(stepped.fabric.device),
    }
    console.print()
    console.print(step_size_table(stepped.network))
    console.print()
    console.print(_comparison(networks, stepped))
    console.print(_same_outputs(stepped.network, networks["folded"], stepped))
    say(console, f"folded network: {folder.folded}")
    say(console, f"step sizes, as a picture: {folder.steps_plot}")
    return 0


def _train_rest(run: Run, configuration: Configuration, console: Console) -> None:
    """Train what is not trained yet."""
    resume = run.configuration.exists()
    if resume and run.read_configuration() != configuration:
        raise RunError(
            f"{run.folder} was trained with other settings than the demo's; remove it, or name "
            "another folder with --folder"
        )
    train(run, configuration, resume=resume, console=console)


def _comparison(networks: dict[str, nn.Module], trained: Trained) -> Table:
    """Tabulate parameters, accuracy, loss and step size of the networks."""
    count = len(trained.images.test)
    table = Table(
        title=f"{trained.configuration.network.name} on {count} test images, one seed",
        caption="in brackets the 95% interval that so few images leave (Wilson)",
    )
    for heading in ("network", "parameters", "accuracy (%)", "loss", "mean step size"):
        table.add_column(heading, justify="left" if heading == "network" else "right")
    for name, network in networks.items():
        scores = evaluate(network, trained.images, trained.fabric, EVALUATION_BATCH)
        interval = binomtest(round(scores.accuracy * count), count).proportion_ci(method="wilson")
        steps = "1"
        if hasattr(network, "time_stepping"):
            steps = f"{torch.cat(list(step_sizes(network).values())).mean():.3f}"
        table.add_row(
            name,
            f"{sum(parameter.numel() for parameter in network.parameters()):,}",
            f"{100 * scores.accuracy:.2f} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]",
            f"{scores.loss:.4f}",
            steps,
        )
    return table


@torch.no_grad()
def _same_outputs(stepped: nn.Module, folded: nn.Module, trained: Trained) -> str:
    """Compare both networks on all test images, in one line."""
    same = total = 0
    for images, _ in trained.images.batches("test", EVALUATION_BATCH, device=trained.fabric.device):
        equal = stepped(images) == folded(images)
        same += int(equal.all(1).sum())
        total += len(images)
    return f"folded and time-stepped network: bit-equal outputs on {same} of {total} test images"
