"""``timestepper report``."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from timestepper.errors import RunError
from timestepper.files import resolved
from timestepper.report.html import is_report, read_runs, watch, write_report
from timestepper.training.run import Run

EXAMPLES = (
    "timestepper report runs/digits-cifar_resnet20-lstm-0",
    "timestepper report runs/lstm-0 runs/lstm-1 runs/plain-0 runs/plain-1 -o comparison.html",
    "timestepper report runs/mine --watch",
)
SEVERAL = "report.html"
"""The file about several runs, by default."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument(
        "runs",
        nargs="+",
        type=str,
        metavar="RUN",
        help="folders of runs; several are compared, those that differ in their seed alone as one "
        "method, methods with the one that is named first",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=str | None,
        metavar="FILE",
        help=f"page to write; by default RUN/report.html, of several runs {SEVERAL}. A report that "
        "is there already is replaced",
    )
    parser.add_argument(
        "--watch",
        action="store_true",
        help="write the page anew after each epoch until all runs are done; meanwhile it refreshes "
        "itself",
    )
    parser.add_argument("--force", action="store_true", help="replace a file that is no report")


def run(parser: ArgumentParser, parsed: Namespace) -> int:
    """Write the page."""
    folders = [Path(name) for name in parsed.runs]
    path = _path(parsed, folders)
    try:
        if parsed.watch:
            _watch(folders, path)
        else:
            write_report(read_runs(folders), path)
            print(f"report: {path}")
    except OSError as error:
        raise RunError(f"{path} can't be written: {error.strerror or error}") from error
    return 0


def _watch(folders: list[Path], path: Path) -> None:
    told = False
    for number, is_new in enumerate(watch(folders, path)):
        if is_new and not told:
            print(f"report: {path}; it is kept fresh until all is trained, or Ctrl-C", flush=True)
            told = True
        elif number == 0:
            print("waiting for the first epoch", flush=True)


def _path(parsed: Namespace, folders: list[Path]) -> Path:
    """Decide which file to write.

    Raises:
        RunError: it is a folder, or a file that is no report, or can't be written.
        ConfigurationError: it is a link to itself.
    """
    if parsed.output is None:
        path = Path(SEVERAL) if len(folders) > 1 else Run(folders[0]).report
    else:
        path = Path(parsed.output)
        if not path.parent.is_dir():
            raise RunError(f"{path} can't be written: there is no folder {path.parent}")
    resolved(path)  # Of a link to itself nothing else would tell.
    if path.exists() and not path.is_file():
        what = "a folder" if path.is_dir() else "no ordinary file"
        raise RunError(f"{path} is {what}; name a file with --output")
    if path.exists() and not parsed.force and not is_report(path):
        raise RunError(
            f"{path} exists already and is no report; name another with --output, or add --force"
        )
    return path
