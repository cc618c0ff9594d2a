"""``timestepper train``."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console

from timestepper.cli.parser import CommandParser
from timestepper.errors import ConfigurationError
from timestepper.files import resolved
from timestepper.training.configuration import Configuration
from timestepper.training.recipes import add_configuration, to_configuration
from timestepper.training.run import Run, Training

EXAMPLES = (
    "timestepper train",
    "timestepper train --recipe cifar10 --network.name cifar_resnet110 --data.data_dir DIR",
    "timestepper train --recipe cifar10 --stepping.controller none --folder runs/plain",
    "timestepper train --network.name timm/resnet50 --data.name imagefolder --data.data_dir DIR",
    "timestepper train --recipe cifar10 --data.data_dir DIR --compile true --seeds 0 1 2 3",
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
        "--seeds",
        type=int,
        nargs="+",
        metavar="SEED",
        help="train a network for each of these seeds, side by side in this process; with --folder "
        "into FOLDER-SEED. Small networks share a GPU well that way, with --compile true",
    )
    parser.add_argument(
        "--resume",
        type=str,
        nargs="+",
        metavar="FOLDER",
        help="run to continue where it stopped, with its own configuration; or several that differ "
        "in their seeds, side by side",
    )
    add_configuration(parser)


def run(parser: CommandParser, parsed: Namespace) -> int:
    """Train."""
    # Seconds pass until it is imported, and help and wrong settings need none of it.
    from timestepper.training.loop import train_side_by_side

    trainings = _resumed(parser, parsed) if parsed.resume else _new(parser, parsed)
    train_side_by_side(trainings, console=Console(), report=True)
    return 0


def _resumed(parser: CommandParser, parsed: Namespace) -> list[Training]:
    """Read the runs that go on."""
    if parser.settings() != {"resume"}:
        raise ConfigurationError(
            "--resume continues a run with its own configuration; leave the other settings out, or "
            f"change {parsed.resume[0]}/configuration.yaml"
        )
    _require_different("--resume", [str(resolved(folder)) for folder in parsed.resume])
    runs = [Run(Path(folder)) for folder in parsed.resume]
    return [Training(run, run.read_configuration(), resume=True) for run in runs]


def _new(parser: CommandParser, parsed: Namespace) -> list[Training]:
    """Plan a run, or one for each seed."""
    configuration = to_configuration(parser, parsed)
    if parsed.folder == "":
        raise ConfigurationError("--folder is empty; name a folder or leave it out")
    if parsed.seeds is None:
        return [_training(configuration, parsed.folder)]
    if any(word.partition("=")[0] == "--seed" for word in parser.given):
        raise ConfigurationError("--seed and --seeds can't go together; leave one of them out")
    _require_different("--seeds", parsed.seeds)
    folder = parsed.folder
    folders = {s: None if folder is None else f"{Path(folder)}-{s}" for s in parsed.seeds}
    return [_training(replace(configuration, seed=s), folder) for s, folder in folders.items()]


def _training(configuration: Configuration, folder: str | None) -> Training:
    run = Run(Path(default_folder(configuration) if folder is None else folder))
    return Training(run, configuration, resume=_is_started_again(run, configuration))


def _require_different(argument: str, values: list[Any]) -> None:
    twice = next((value for value in values if values.count(value) > 1), None)
    if twice is not None:
        raise ConfigurationError(f"{argument} has {twice} twice; name each one once")


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
