"""``timestepper reproduce``."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console

from timestepper.errors import ConfigurationError, RunError, did_you_mean
from timestepper.experiments import EXPERIMENTS, FIGURES
from timestepper.experiments.result_figure import ResultFigure
from timestepper.experiments.result_table import ResultTable
from timestepper.files import write_atomically
from timestepper.provenance import provenance

EXAMPLES = (
    "timestepper reproduce figure1",
    "timestepper reproduce table1",
    "timestepper reproduce table2 --counts",
    "timestepper reproduce table3 --counts --output results --force",
)
DEFAULT_FOLDER = "results"


def add_arguments(parser: ArgumentParser) -> None:
    """Add this command's arguments."""
    what = "; ".join(f"{name}: {summary}" for name, summary in EXPERIMENTS.items())
    parser.add_argument("experiment", type=str, metavar="EXPERIMENT", help=what)
    parser.add_argument(
        "--counts",
        action="store_true",
        help="of a table: parameters and multiply-accumulates, no accuracies (seconds, no data)",
    )
    parser.add_argument(
        "--output",
        type=str | None,
        metavar="FOLDER",
        help=f"folder for CSV and Markdown, and a figure's PNG; by default {DEFAULT_FOLDER}",
    )
    parser.add_argument("--force", action="store_true", help="replace files that exist")


def run(parser: ArgumentParser, parsed: Namespace) -> int:
    """Make the table or figure, print its numbers, write it."""
    name: str = parsed.experiment
    if name not in EXPERIMENTS:
        hint = did_you_mean(name, EXPERIMENTS) or f"; there are {', '.join(EXPERIMENTS)}"
        raise ConfigurationError(f"there is no experiment '{name}'{hint}")
    is_figure = name in FIGURES
    if is_figure and parsed.counts:
        raise ConfigurationError(f"{name} is a figure and has no counts; leave --counts out")
    stem = f"{name}-counts" if parsed.counts else name
    paths = _output_paths(parsed, stem, (".csv", ".md", *[".png"] * is_figure))
    console = Console()
    experiment = import_module(f"timestepper.experiments.{name}")
    with console.status("computing"):
        figure: ResultFigure | None = experiment.reproduce() if is_figure else None
        table: ResultTable = figure.table if figure else experiment.reproduce(counts=parsed.counts)
    console.print(table.to_rich())
    for note in table.notes:
        console.print(f"- {note}", highlight=False, markup=False)
    made_by = provenance(command=f"timestepper reproduce {name}{' --counts' * parsed.counts}")
    picture = f"{name}.png" if figure else None
    contents = [table.to_csv(made_by).encode(), table.to_markdown(made_by, picture).encode()]
    if figure:
        contents.append(figure.to_png(made_by))
    paths[0].parent.mkdir(exist_ok=True)
    for path, content in zip(paths, contents, strict=True):
        write_atomically(path, content)
        kind = "figure" if path.suffix == ".png" else "table"
        console.print(f"{kind}: {path}", highlight=False, soft_wrap=True)
    return 0


def _output_paths(parsed: Namespace, stem: str, suffixes: Sequence[str]) -> list[Path]:
    """Decide which files to write, one for each suffix.

    Raises:
        RunError: one exists already, or their folder does not.
    """
    folder = Path(DEFAULT_FOLDER if parsed.output is None else parsed.output)
    if not folder.is_dir() and (parsed.output is not None or folder.exists()):
        raise RunError(f"{stem} can't be written: there is no folder {folder}")
    paths = [folder / f"{stem}{suffix}" for suffix in suffixes]
    for path in paths:
        if path.exists() and not parsed.force:
            raise RunError(
                f"{path} exists already; name another folder with --output, or add --force"
            )
    return paths
