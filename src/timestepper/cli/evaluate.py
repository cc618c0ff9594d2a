"""``timestepper evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentParser, Namespace

from timestepper.cli.arguments import add_run, open_run
from timestepper.cli.parser import CommandParser
from timestepper.errors import ConfigurationError
from timestepper.training.evaluation import evaluate
from timestepper.training.folded import load_plain

EXAMPLES = (
    "timestepper evaluate runs/digits-cifar_resnet20-lstm-0",
    "timestepper evaluate runs/mine --checkpoint best",
    "timestepper evaluate runs/mine --weights runs/mine/folded.safetensors",
)


def add_arguments(parser: ArgumentParser) -> None:
    """Add this command's arguments."""
    add_run(parser)
    parser.add_argument(
        "--weights",
        type=str | None,
        metavar="FILE",
        help="safetensors of the plain network, to be measured instead of the checkpoint",
    )
    parser.add_argument(
        "--split",
        type=Literal["test", "validation"],
        default="test",
        help="the test images, or the validation images that the training held out",
    )
    parser.add_argument("--batch_size", type=int, default=250, help="images at a time")


def run(parser: CommandParser, parsed: Namespace) -> int:
    """Evaluate."""
    if parsed.batch_size < 1:
        raise ConfigurationError(f"batch_size is {parsed.batch_size}; it must be at least 1")
    if parsed.weights is not None and "checkpoint" in parser.settings():
        raise ConfigurationError(
            "--weights and --checkpoint are two networks; leave one of them out"
        )
    trained = open_run(parsed)
    network, what = trained.network, f"{parsed.checkpoint} checkpoint, {trained.progress}"
    if parsed.weights is not None:
        network = load_plain(trained.configuration, trained.images, Path(parsed.weights))
        network, what = network.to(trained.fabric.device), parsed.weights
    scores = evaluate(network, trained.images, trained.fabric, parsed.batch_size, parsed.split)
    print(
        f"{what}: accuracy {scores.accuracy:.2%}, loss {scores.loss:.4f} "
        f"on {len(trained.images.split(parsed.split))} {parsed.split} images of "
        f"{trained.images.name}"
    )
    return 0
