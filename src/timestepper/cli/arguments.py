"""Arguments that several commands share."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentParser, Namespace

from timestepper.errors import RunError
from timestepper.files import resolved
from timestepper.training.run import Run
from timestepper.training.trained import Trained, load_trained


def add_run(parser: ArgumentParser) -> None:
    """Add the run, and which of its checkpoints is meant."""
    parser.add_argument("run", type=str, metavar="RUN", help="folder of a run")
    parser.add_argument(
        "--checkpoint",
        type=Literal["last", "best"],
        default="last",
        help="the last one, or that of the epoch with the best accuracy on validation images, or "
        "on test images where none were held out",
    )


def add_output(parser: ArgumentParser, default: str) -> None:
    """Add the file to write, and leave to replace it."""
    parser.add_argument(
        "--output", type=str | None, metavar="FILE", help=f"file to write; by default {default}"
    )
    parser.add_argument("--force", action="store_true", help="replace the file if it exists")


def open_run(parsed: Namespace) -> Trained:
    """Load the network of the run that :func:`add_run` has read."""
    trained = load_trained(Run(Path(parsed.run)), parsed.checkpoint)
    if trained.warning:
        print(f"timestepper: warning: {trained.warning}", file=sys.stderr)
    return trained


def output_path(
    parsed: Namespace, default: Path, *, is_folder: bool = False, is_plot: bool = False
) -> Path:
    """Decide which file or folder to write.

    Args:
        parsed: with the output, or without.
        default: where it goes by default.
        is_folder: whether a folder is written.
        is_plot: whether the default is a plot of the run's own, which a newer one may replace.

    Raises:
        RunError: it exists already, and is no empty folder where one is wanted; it is a folder
            where a file is wanted, or the other way round, or a device; or its own folder does not
            exist.
        ConfigurationError: it is a link to itself.
    """
    path = Path(parsed.output) if parsed.output is not None else default
    if path.is_symlink():
        path = resolved(path)  # What it points to is written, and not the link.
    if path.exists() and not path.is_dir() and not path.is_file():
        raise RunError(f"{path} is no ordinary file; name a file with --output")
    if path.exists() and path.is_dir() != is_folder:
        there, wanted = ("file", "folder") if is_folder else ("folder", "file")
        raise RunError(f"{path} is a {there}; name a {wanted} with --output")
    occupied = any(path.iterdir()) if path.is_dir() else path.exists()
    is_replaceable = parsed.force or (is_plot and parsed.output is None)
    if occupied and not is_replaceable:
        raise RunError(f"{path} exists already; name another with --output, or add --force")
    if parsed.output is not None and not path.parent.is_dir():
        raise RunError(f"{path} can't be written: there is no folder {path.parent}")
    return path
