"""``timestepper bench``."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.table import Table

from timestepper.cli.parser import CommandParser
from timestepper.errors import ConfigurationError
from timestepper.provenance import provenance
from timestepper.speed import Speed, measure_speed
from timestepper.training.determinism import deterministic_kernels
from timestepper.training.interruption import Interrupted, stopped_at_once
from timestepper.training.recipes import add_configuration, to_configuration

EXAMPLES = (
    "timestepper bench",
    "timestepper bench --network.name cifar_resnet56 --precision bf16-mixed --channels_last true",
    "timestepper bench --network.name timm/resnet50 --data.image_size 224 --batch_size 8",
)
STOPPED = "stopped; nothing was measured"


def add_arguments(parser: ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument(
        "--rounds", type=int, default=24, help="how often each step and pass is timed"
    )
    add_configuration(parser)


def run(parser: CommandParser, parsed: Namespace) -> int:
    """Measure and print: without a recipe or settings of the data, on digits of 32x32 pixels."""
    if parsed.rounds < 1:
        raise ConfigurationError(f"rounds is {parsed.rounds}; it must be at least 1")
    configuration = to_configuration(parser, parsed)
    if not any(key == "recipe" or key.startswith("data.") for key in parser.settings()):
        configuration = replace(configuration, data=replace(configuration.data, image_size=32))
    if configuration.stepping.controller == "none":
        raise ConfigurationError(
            "stepping.controller is none: there is nothing to compare with the plain network; "
            "name a controller"
        )
    console = Console()
    with (
        stopped_at_once(STOPPED),
        tempfile.TemporaryDirectory() as folder,
        console.status("measuring"),
        deterministic_kernels(configuration.deterministic),
    ):
        try:
            speed = measure_speed(configuration, parsed.rounds, Path(folder))
        except Interrupted as stop:  # There is nothing to go on from.
            raise Interrupted(stop.number, STOPPED) from None
    name = f"{configuration.network.name}, {configuration.stepping.controller}"
    console.print(_table(name, speed))
    for line in provenance(speed.device, command="timestepper bench")[1:]:
        console.print(line, highlight=False)
    return 0


def _table(name: str, speed: Speed) -> Table:
    shape = "×".join(map(str, speed.batch))
    table = Table(title=f"{name}: batches of {shape}", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for label, value in (
        ("training step, plain network", f"{1e3 * speed.training.median('plain'):.1f} ms"),
        ("with step sizes, over the plain network", f"{speed.training_ratio:.3f}"),
        ("inference, plain network", f"{1e3 * speed.inference.median('plain'):.1f} ms"),
        ("folded, over the plain network", f"{speed.inference_ratio:.3f}"),
        ("training with step sizes", f"{speed.images_per_second:,.0f} images/s"),
        ("forward, backward and optimizer's share of it", f"{speed.working:.0%}"),
    ):
        table.add_row(label, value)
    return table
