"""``timestepper reproduce``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console

from timestepper.cli.parser import CommandParser
from timestepper.errors import ConfigurationError, RunError, did_you_mean
from timestepper.experiments import CALCULATED, COUNTED, EXPERIMENTS, TRAINED
from timestepper.experiments.cluster import ClusterConfiguration, carry_out_on, check_cluster
from timestepper.experiments.study import SCALES, ScaleName
from timestepper.files import write_atomically
from timestepper.provenance import provenance
from timestepper.report.result_figure import ResultFigure
from timestepper.report.result_table import ResultTable
from timestepper.training.configuration import Precision
from timestepper.training.progress import say

EXAMPLES = (
    "timestepper reproduce figure1",
    "timestepper reproduce table2 --counts",
    "timestepper reproduce figure5 --scale smoke",
    "timestepper reproduce figure4 --scale quick --jobs 2 --dry-run",
    "timestepper reproduce alternatives --scale paper --jobs 4 --data.data_dir DIR",
    "timestepper reproduce table3 --scale paper --jobs 8 --cluster.name slurm "
    "--cluster.partition gpu",
)
DEFAULT_FOLDER = "results"

Result = ResultTable | ResultFigure


def add_arguments(parser: ArgumentParser) -> None:
    """Add this command's arguments."""
    what = "; ".join(f"{name}: {summary}" for name, summary in EXPERIMENTS.items())
    parser.add_argument("experiment", type=str, metavar="EXPERIMENT", help=what)
    parser.add_argument(
        "--scale",
        type=ScaleName,
        default="quick",
        help="how much is trained; " + "; ".join(f"{s}: {what}" for s, what in SCALES.items()),
    )
    parser.add_argument(
        "--counts",
        action="store_true",
        help="of a table: parameters and multiply-accumulates, no accuracies (seconds, no data)",
    )
    parser.add_argument(
        "--dry-run",
        dest="dry_run",
        action="store_true",
        help="show what would be trained and how long that takes here, and train nothing",
    )
    parser.add_argument(
        "--budget",
        type=float | None,
        metavar="HOURS",
        help="train nothing if all of it takes longer than this",
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=1,
        metavar="N",
        help="trainings at a time; on this machine they share the cores, or the GPU",
    )
    parser.add_class_arguments(ClusterConfiguration, "cluster")
    parser.add_argument(
        "--seeds",
        type=int | None,
        metavar="N",
        help="train with so many seeds instead of those that the scale has",
    )
    parser.add_argument(
        "--precision",
        type=Precision | None,
        help="train with this one instead of the scale's, which on a CPU without instructions for "
        "bfloat16 takes many times as long",
    )
    parser.add_argument(
        "--compile",
        type=bool | None,
        help="run through torch.compile, on a GPU with CUDA graphs; there seeds then train side by "
        "side with --jobs",
    )
    parser.add_argument(
        "--runs",
        type=str,
        default="runs",
        metavar="FOLDER",
        help="where trainings go; what is finished there is not trained again, and what was "
        "interrupted goes on",
    )
    parser.add_argument(
        "--data.data_dir",
        type=str | None,
        metavar="FOLDER",
        help="folder with the data sets; by default $TIMESTEPPER_DATA and the usual places",
    )
    parser.add_argument(
        "--data.download", type=bool, default=False, help="fetch missing files of data sets"
    )
    parser.add_argument(
        "--output",
        type=str | None,
        metavar="FOLDER",
        help=f"folder for CSV, Markdown and PNG; by default {DEFAULT_FOLDER}",
    )
    parser.add_argument("--force", action="store_true", help="replace files that exist")


def run(parser: CommandParser, parsed: Namespace) -> int:
    """Make the table or figure, print its numbers, write it."""
    name: str = parsed.experiment
    if name not in EXPERIMENTS:
        hint = did_you_mean(name, EXPERIMENTS) or f"; there are {', '.join(EXPERIMENTS)}"
        raise ConfigurationError(f"there is no experiment '{name}'{hint}")
    if parsed.counts and name not in COUNTED:
        raise ConfigurationError(
            f"{name} has no counts of its own ({' and '.join(COUNTED)} have); leave --counts out"
        )
    for option in ("jobs", "seeds"):
        if getattr(parsed, option) is not None and getattr(parsed, option) < 1:
            raise ConfigurationError(
                f"--{option} is {getattr(parsed, option)}; it must be at least 1"
            )
    cluster: ClusterConfiguration = parser.instantiate(parsed).cluster
    check_cluster(cluster)
    if name in TRAINED and not parsed.counts:
        return _train(name, parsed, cluster)
    others = parser.settings() - {"experiment", "counts", "output", "force"}
    if others:
        raise ConfigurationError(
            f"{name} trains nothing{' with --counts' * parsed.counts}; leave "
            f"{', '.join(sorted(others))} out"
        )
    stem = f"{name}-counts" if parsed.counts else name
    paths = _output_paths(parsed, stem)
    console = Console()
    experiment = import_module(f"timestepper.experiments.{name}")
    with console.status("computing"):
        result: Result = experiment.calculate() if name in CALCULATED else experiment.count()
    made_by = provenance(command=f"timestepper reproduce {name}{' --counts' * parsed.counts}")
    _show(result, console)
    _write(result, made_by, paths, console)
    return 0


def _train(name: str, parsed: Namespace, cluster: ClusterConfiguration) -> int:
    """Carry out an experiment that trains networks."""
    from timestepper.experiments.cost import Estimator
    from timestepper.experiments.images import require_same_images
    from timestepper.experiments.method_comparison import runs_table
    from timestepper.experiments.outcomes import read_outcomes
    from timestepper.experiments.plan import plan
    from timestepper.experiments.plan_table import plan_table
    from timestepper.experiments.runner import carry_out
    from timestepper.experiments.study import read_study

    is_elsewhere = cluster.name == "slurm"
    if is_elsewhere and parsed.budget is not None:
        raise ConfigurationError(
            "--budget is about trainings on this machine; with --cluster.name slurm leave it out"
        )
    stem = f"{name}-{parsed.scale}"
    paths = {} if parsed.dry_run else _output_paths(parsed, stem, "-runs.csv")
    console = Console()
    study = read_study(name)
    scale = study.at(parsed.scale)
    if parsed.seeds is not None:
        scale = replace(scale, seeds=parsed.seeds)
    experiment = import_module(f"timestepper.experiments.{name}")
    if hasattr(experiment, "check"):
        experiment.check(scale)
    runs = Path(parsed.runs)
    if runs.exists() and not runs.is_dir():
        raise RunError(f"{runs} is a file; name a folder for the trainings with --runs")
    planned = plan(
        study.methods,
        scale,
        runs,
        parsed.data.data_dir,
        parsed.data.download,
        parsed.precision,
        parsed.compile,
    )
    estimator = Estimator(parsed.jobs)
    require_same_images(planned, estimator.images)
    if is_elsewhere:
        console.print(plan_table(planned, None))
    else:
        with console.status("trying a step of each training"):
            table = plan_table(planned, estimator)
            hours = estimator.hours(planned)
        console.print(table)
        console.print(f"to do: about {duration(hours)} on this machine with --jobs {parsed.jobs}")
        if parsed.budget is not None and hours > parsed.budget:
            raise ConfigurationError(
                f"{name} at scale {parsed.scale} takes about {hours:.2g} hours here with --jobs "
                f"{parsed.jobs}, and --budget allows {parsed.budget:g}; take a smaller --scale, or "
                "give it more time"
            )
    if parsed.dry_run:
        return 0
    failed, to_do = 0, sum(each.state != "done" for each in planned)
    if to_do:
        say(console, f"each training's log is beside its folder in {runs}")
    if cluster.name is None:
        ended = carry_out(planned, parsed.jobs)
    else:
        ended = carry_out_on(cluster, planned, parsed.jobs, runs)
    for number, (each, failure) in enumerate(ended, 1):
        what = f"failed: {failure}" if failure else "done"
        say(console, f"{number} of {to_do}: {each.name} {what}")
        failed += failure is not None
    outcomes = read_outcomes(planned)
    if not outcomes:
        raise RunError(f"no training of {name} succeeded; see the logs in {parsed.runs}")
    result: Result = experiment.present(scale, planned, outcomes)
    given = {n: parsed[n] for n in ("seeds", "precision", "compile") if parsed[n] is not None}
    changed = [f" --{n} {str(value).lower()}" for n, value in given.items()]
    command = f"timestepper reproduce {name} --scale {parsed.scale}{''.join(changed)}"
    made_by = provenance(command=command)
    _show(result, console)
    _write(result, made_by, paths, console)
    each_training = paths["-runs.csv"]
    write_atomically(each_training, runs_table(scale, outcomes).to_csv(made_by).encode())
    say(console, f"each training: {each_training}")
    return 1 if failed else 0


def duration(hours: float) -> str:
    """Write a duration for people."""
    minutes = 60 * hours
    if minutes < 1:
        return f"{60 * minutes:.0f} seconds"
    return f"{minutes:.0f} minutes" if minutes < 120 else f"{hours:,.1f} hours"


def _show(result: Result, console: Console) -> None:
    table = result.table if isinstance(result, ResultFigure) else result
    console.print(table.to_rich())
    for note in table.notes:
        console.print(f"- {note}", highlight=False, markup=False)


def _write(
    result: Result, made_by: Sequence[str], paths: Mapping[str, Path], console: Console
) -> None:
    """Write CSV and Markdown, and a figure's PNG."""
    table = result.table if isinstance(result, ResultFigure) else result
    picture = paths[".png"].name if isinstance(result, ResultFigure) else None
    contents = {
        ".csv": table.to_csv(made_by).encode(),
        ".md": table.to_markdown(made_by, picture).encode(),
    }
    if isinstance(result, ResultFigure):
        contents[".png"] = result.to_png(made_by)
    paths[".csv"].parent.mkdir(exist_ok=True)
    for suffix, content in contents.items():
        write_atomically(paths[suffix], content)
        kind = "figure" if suffix == ".png" else "table"
        say(console, f"{kind}: {paths[suffix]}")


def _output_paths(parsed: Namespace, stem: str, *others: str) -> dict[str, Path]:
    """Decide which files to write, by how their names end; only figures need all of them.

    Raises:
        RunError: one exists already, or their folder does not.
    """
    folder = Path(DEFAULT_FOLDER if parsed.output is None else parsed.output)
    if not folder.is_dir() and (parsed.output is not None or folder.exists()):
        raise RunError(f"{stem} can't be written: there is no folder {folder}")
    paths = {end: folder / f"{stem}{end}" for end in (".csv", ".md", ".png", *others)}
    for path in paths.values():
        if path.exists() and not parsed.force:
            raise RunError(
                f"{path} exists already; name another folder with --output, or add --force"
            )
    return paths
