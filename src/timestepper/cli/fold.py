"""``timestepper fold``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentParser, Namespace

from timestepper.cli.arguments import add_output, add_run, open_run, output_path
from timestepper.shipping import FORMATS, ship
from timestepper.training.interruption import stopped_at_once

EXAMPLES = (
    "timestepper fold runs/mine --output resnet.safetensors",
    "timestepper fold runs/mine --checkpoint best --output resnet.safetensors --force",
    "timestepper fold runs/mine --to timm --output resnet",
    "timestepper fold runs/mine --to onnx",
)


def add_arguments(parser: ArgumentParser) -> None:
    """Add this command's arguments."""
    add_run(parser)
    parser.add_argument(
        "--to",
        type=Literal["timm", "torchvision", "safetensors", "onnx", "export"],
        default="safetensors",
        help="a folder for timm.create_model, a state dict for torchvision, a file of "
        "safetensors, ONNX, or torch.export's program",
    )
    names = ", ".join(form.file_name for form in FORMATS.values())
    add_output(parser, f"in RUN one of {names}")


def run(parser: ArgumentParser, parsed: Namespace) -> int:
    """Fold, write, load again and compare on test images; only then give it its name."""
    form = FORMATS[parsed.to]
    path = output_path(parsed, Path(parsed.run) / form.file_name, is_folder=form.is_folder)
    with stopped_at_once("stopped; nothing was written"):
        trained = open_run(parsed)
        plain, verified = ship(trained, form, path)
    before, after = (
        sum(parameter.numel() for parameter in network.parameters())
        for network in (trained.network, plain)
    )
    print(
        f"{path}: {trained.configuration.network.name}, {after:,} parameters ({before - after:,} "
        f"of the controllers gone), {verified}"
    )
    return 0
