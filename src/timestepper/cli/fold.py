"""``timestepper fold``."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from timestepper.cli.arguments import add_output, add_run, open_run, output_path
from timestepper.training.folded import folded_copy, write_weights
from timestepper.training.run import Run

EXAMPLES = (
    "timestepper fold runs/mine --output resnet.safetensors",
    "timestepper fold runs/mine --checkpoint best --output resnet.safetensors --force",
)
VERIFIED_IMAGES = 250


def add_arguments(parser: ArgumentParser) -> None:
    """Add this command's arguments."""
    add_run(parser)
    add_output(parser, "RUN/folded.safetensors")


def run(parser: ArgumentParser, parsed: Namespace) -> int:
    """Fold, compare both networks on test images, write."""
    path = output_path(parsed, Run(Path(parsed.run)).folded)
    trained = open_run(parsed)
    images = trained.some_images(VERIFIED_IMAGES)
    plain = folded_copy(trained.network, images)
    write_weights(plain, path)
    before, after = (
        sum(parameter.numel() for parameter in network.parameters())
        for network in (trained.network, plain)
    )
    print(
        f"{path}: {trained.configuration.network.name}, {after:,} parameters ({before - after:,} "
        f"of the controllers gone), outputs bit-equal on {len(images)} test images"
    )
    return 0
