"""``timestepper train``."""

from __future__ import annotations

import os
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console

from timestepper.cli.parser import CommandParser
from timestepper.errors import ConfigurationError
from timestepper.training.configuration import Configuration
from timestepper.training.recipes import add_configuration, to_configuration
from timestepper.training.run import Run

EXAMPLES = (
    "timestepper train",
    "timestepper train --recipe cifar10 --network.name cifar_resnet110 --data.data_dir DIR",
    "timestepper train --recipe cifar10 --stepping.controller none --folder runs/plain",
    "timestepper train --network.name timm/resnet50 --data.name imagefolder --data.data_dir DIR",
    "timestepper train --resume runs/digits-cifar_resnet20-lstm-0",
    "torchrun --nproc_per_node 8 --no-python timestepper train --recipe imagenet",
)

RESTARTS = ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")
"""Variables in which torchrun and Slurm count how often they have started a job again."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument(
        "--folder",
        type=str | None,
        metavar="FOLDER",
        help="new folder for the run; by default runs/DATA-NETWORK-CONTROLLER-SEED",
    )
    parser.add_argument(
        "--resume",
        type=str | None,
        metavar="FOLDER",
        help="run to continue where it stopped, with its own configuration",
    )
    add_configuration(parser)


def run(parser: CommandParser, parsed: Namespace) -> int:
    """Train."""
    # Seconds pass until it is imported, and help and wrong settings need none of it.
    from timestepper.training.loop import train

    configuration = to_configuration(parser, parsed)
    resume = parsed.resume is not None
    if resume:
        if parser.settings() != {"resume"}:
            raise ConfigurationError(
                "--resume continues a run with its own configuration; leave the other settings "
                f"out, or change {parsed.resume}/configuration.yaml"
            )
        target = Run(Path(parsed.resume))
        configuration = target.read_configuration()
    else:
        target = Run(Path(parsed.folder or default_folder(configuration)))
        resume = _is_started_again(target, configuration)
    train(target, configuration, resume=resume, console=Console(), report=True)
    return 0


def _is_started_again(run: Run, configuration: Configuration) -> bool:
    """Tell whether torchrun or Slurm has started the same command again after a fault."""
    restarts = (os.environ.get(name, "0") for name in RESTARTS)
    return (
        any(count not in ("", "0") for count in restarts)
        and run.configuration.exists()
        and run.read_configuration() == configuration
    )


def default_folder(configuration: Configuration) -> str:
    """Name a run after what tells it from others."""
    parts = (
        configuration.data.name,
        configuration.network.name.replace("/", "-"),
        configuration.stepping.controller,
        configuration.seed,
    )
    return "runs/" + "-".join(map(str, parts))
