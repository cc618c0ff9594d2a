"""``timestepper robustness``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from timestepper.cli.arguments import open_run
from timestepper.errors import ConfigurationError, RunError, did_you_mean
from timestepper.files import resolved, seen_from, write_atomically
from timestepper.provenance import provenance
from timestepper.report import every_score, plot_robustness, robustness_table
from timestepper.report.result_figure import ResultFigure
from timestepper.report.result_table import ResultTable
from timestepper.report.robustness import FOLDERS
from timestepper.robustness import (
    FGSM,
    PGD,
    AutoAttack,
    CommonCorruptions,
    GaussianNoise,
    Outcome,
    ThreatModel,
)
from timestepper.training.commands import command
from timestepper.training.trained import Trained

EXAMPLES = (
    "timestepper robustness runs/digits-cifar_resnet20-lstm-0",
    "timestepper robustness runs/mine runs/plain --deviations 0 0.25 0.5 0.75 1 --draws 5",
    "timestepper robustness runs/mine runs/plain --threat fgsm pgd --eps 1/255 2/255 4/255 8/255",
    "timestepper robustness runs/mine --threat corruptions --severities 1 3 5 --limit 500",
)
THREATS: dict[str, type[ThreatModel]] = {
    threat.name: threat for threat in (GaussianNoise, CommonCorruptions, FGSM, PGD, AutoAttack)
}
SETTINGS: dict[str, tuple[Any, str]] = {
    "deviations": (
        str,
        "noise: standard deviations, in the data's; by default 0, 0.1 and so on to 1",
    ),
    "draws": (int, "noise: how many times it is drawn for each image; by default 3"),
    "corruptions": (str, "corruptions: their names; by default the 15 common ones"),
    "severities": (str, "corruptions: from 1, weakest, to 5; by default all"),
    "eps": (str, "attacks: largest change of a pixel, where white is 1; by default 8/255"),
    "steps": (int, "pgd and autoattack: gradient steps; by default 20 and 100"),
    "step_size": (float, "pgd: length of a step, as a fraction of eps; by default 0.25"),
    "restarts": (int, "pgd and autoattack: random starts; by default 1 and 5"),
    "queries": (int, "autoattack: queries of a run of Square Attack; by default 5000"),
    "limit": (
        int | Literal["all"],
        "use so many of the test images, evenly spaced, or all; by default noise uses all, "
        "corruptions 1000, attacks 200",
    ),
    "seed": (int, "seed of all that is random; by default 0"),
}
"""Type and meaning of each setting; what it means is an attribute of the threats' records."""
SEVERAL = ("deviations", "corruptions", "severities", "eps")
SUFFIXES = (".csv", ".md", ".png")


def add_arguments(parser: ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument(
        "runs", nargs="+", type=str, metavar="RUN", help="folders of runs on the same data"
    )
    parser.add_argument(
        "--threat",
        nargs="+",
        type=str,
        default=[GaussianNoise.name],
        help=f"what they are exposed to, one or more of {', '.join(THREATS)}",
    )
    for name, (kind, meaning) in SETTINGS.items():
        if name in SEVERAL:
            parser.add_argument(f"--{name}", nargs="+", type=kind, help=meaning)
        else:
            parser.add_argument(f"--{name}", type=kind | None, help=meaning)
    parser.add_argument(
        "--checkpoint",
        type=Literal["last", "best"],
        default="last",
        help="the last one, or that of the epoch with the best accuracy on validation images, or "
        "on test images where none were held out",
    )
    parser.add_argument(
        "--output",
        type=str | None,
        metavar="FOLDER",
        help="folder for table and curve of each threat; by default robustness in the first "
        "run's folder",
    )
    parser.add_argument("--force", action="store_true", help="replace files that exist")


def run(parser: ArgumentParser, parsed: Namespace) -> int:
    """Measure, print the tables, write them and plots."""
    given = {name: value for name in SETTINGS if (value := getattr(parsed, name)) is not None}
    threats = _threats(parsed.threat, given)
    folder = _folder(parsed, threats)
    subjects = _open(parsed)
    images = next(iter(subjects.values())).images
    for threat in threats:
        threat.require(images)
    made_by = provenance(
        next(iter(subjects.values())).fabric.device, command=_command(subjects, parsed, given)
    )
    networks = [
        f"{name}: {one.configuration.network.name}, step sizes "
        f"{one.configuration.stepping.controller}, {parsed.checkpoint} checkpoint, "
        f"{one.progress}"
        for name, one in subjects.items()
    ]
    places = _places(subjects, parsed, folder)
    console = Console()
    for threat in threats:
        outcomes = {name: _measure(name, one, threat, console) for name, one in subjects.items()}
        table = robustness_table(outcomes)
        console.print(table.to_rich())
        for note in table.notes:
            console.print(f"- {note}", highlight=False, markup=False)
        folder.mkdir(exist_ok=True)
        facts = [*made_by, *networks]
        for path in _write(folder / threat.name, outcomes, table, facts, places):
            kind = "plot" if path.suffix == ".png" else "table"
            console.print(f"{kind}: {path}", highlight=False, markup=False, soft_wrap=True)
    return 0


def _threats(names: Sequence[str], given: Mapping[str, Any]) -> list[ThreatModel]:
    """Make the threat models with the settings that belong to each.

    Raises:
        ConfigurationError: a threat is unknown or named twice, or a setting is impossible or
            belongs to none of them.
    """
    for name in names:
        if name not in THREATS:
            hint = did_you_mean(name, THREATS) or f"; there are {', '.join(THREATS)}"
            raise ConfigurationError(f"there is no threat '{name}'{hint}")
        if names.count(name) > 1:
            raise ConfigurationError(f"threat '{name}' is given twice")
    settings = {name: {field.name for field in fields(THREATS[name])} for name in THREATS}  # type: ignore[arg-type]
    for setting in given:
        if not any(setting in settings[name] for name in names):
            fitting = [name for name in THREATS if setting in settings[name]]
            raise ConfigurationError(
                f"--{setting} belongs to the threats {', '.join(fitting)}, not to "
                f"{', '.join(names)}; choose one of them with --threat, or leave it out"
            )
    values = {
        name: _several(name, value) if name in SEVERAL else value for name, value in given.items()
    }
    if values.get("limit") == "all":
        values["limit"] = None
    return [
        THREATS[name](**{key: value for key, value in values.items() if key in settings[name]})
        for name in names
    ]


def _several(name: str, texts: Sequence[str]) -> tuple[str | int | float, ...]:
    """Read several values; levels become a curve, from the lowest to the highest."""
    values = dict.fromkeys(_read(name, text) for text in texts)
    return tuple(values) if name == "corruptions" else tuple(sorted(values, key=float))


def _read(name: str, text: str) -> str | int | float:
    """Read one of several values; numbers may be fractions."""
    if name == "corruptions":
        return text
    try:
        return int(text) if name == "severities" else float(Fraction(text))
    except (ValueError, ZeroDivisionError, OverflowError):
        demand = "whole numbers from 1 to 5" if name == "severities" else "numbers such as 0.03"
        fraction = " or 8/255" if name == "eps" else ""
        raise ConfigurationError(
            f"'{text}' is not possible in {name}; give {demand}{fraction}"
        ) from None


def _folder(parsed: Namespace, threats: Sequence[ThreatModel]) -> Path:
    """Decide where to write.

    Raises:
        RunError: a file that would be written exists already, or its folder can't be made.
    """
    default = Path(parsed.runs[0]) / "robustness"
    folder = default if parsed.output is None else Path(parsed.output)
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is a file; name a folder with --output")
    if parsed.output is not None and not folder.parent.is_dir():
        raise RunError(f"{folder} can't be written: there is no folder {folder.parent}")
    for threat in threats:
        for suffix in SUFFIXES:
            path = folder / f"{threat.name}{suffix}"
            if path.exists() and not parsed.force:
                raise RunError(
                    f"{path} exists already; name another folder with --output, or add --force"
                )
    return folder


def _open(parsed: Namespace) -> dict[str, Trained]:
    """Load the runs' networks, by their folders' names where those differ.

    Raises:
        TimestepperError: a run can't be loaded or is given twice, or they are of different data.
    """
    paths = [resolved(name) for name in parsed.runs]
    names = [path.name for path in paths]
    if len(set(names)) < len(names):
        names = list(parsed.runs)
    subjects: dict[str, Trained] = {}
    for given, path, name in zip(parsed.runs, paths, names, strict=True):
        if paths.count(path) > 1:
            raise ConfigurationError(f"run '{given}' is given twice; compare different runs")
        subjects[name] = open_run(Namespace(run=given, checkpoint=parsed.checkpoint))
        first = next(iter(subjects.values()))
        if _data(first) != _data(subjects[name]):
            raise ConfigurationError(
                f"{parsed.runs[0]} and {given} are of different data ({_describe_data(first)}, "
                f"{_describe_data(subjects[name])}); compare runs on the same images"
            )
    return subjects


def _data(trained: Trained) -> tuple[object, ...]:
    """Give what tells data sets apart."""
    images = trained.images
    size = (images.channels, images.image_size, len(images.test))
    return images.name, images.classes, size, images.mean, images.std


def _describe_data(trained: Trained) -> str:
    images = trained.images
    height, width = images.image_size
    return f"{images.name} with {len(images.test)} test images of {height}x{width} pixels"


def _measure(name: str, subject: Trained, threat: ThreatModel, console: Console) -> Outcome:
    """Measure, with a bar that says how far it is."""
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task(escape(f"{threat.name}: {name}"), total=None)
        return threat.evaluate(
            subject.network,
            subject.images,
            subject.fabric,
            lambda done, of: bar.update(task, completed=done, total=of),
        )


def _write(
    stem: Path,
    outcomes: Mapping[str, Outcome],
    table: ResultTable,
    made_by: Sequence[str],
    places: str,
) -> Iterator[Path]:
    """Write the files of one threat; yield each as soon as it is there."""
    figure = plot_robustness(outcomes)
    picture = f"{stem.name}.png" if figure else None
    contents = {
        ".csv": every_score(outcomes).to_csv([*made_by, places]).encode(),
        ".md": table.to_markdown(made_by, picture).encode(),
        ".png": ResultFigure(figure, table).to_png(made_by) if figure else None,
    }
    for suffix, content in contents.items():
        path = stem.with_suffix(suffix)
        if content is None:
            path.unlink(missing_ok=True)  # That of a run before, with more levels.
        else:
            write_atomically(path, content)
            yield path


def _places(subjects: Mapping[str, Trained], parsed: Namespace, folder: Path) -> str:
    """Write where the runs lie, seen from a folder: names alone don't tell runs apart."""
    places = {
        name: seen_from(folder, Path(given))
        for name, given in zip(subjects, parsed.runs, strict=True)
    }
    return FOLDERS + json.dumps(places, ensure_ascii=False)


def _command(subjects: Mapping[str, Trained], parsed: Namespace, given: Mapping[str, Any]) -> str:
    """Write the command as anyone would type it, where the runs are, without output folders."""
    words = ["robustness", *subjects, "--threat", *parsed.threat]
    for name, value in given.items():
        words += [f"--{name}", *map(str, value if name in SEVERAL else [value])]
    if parsed.checkpoint != "last":
        words += ["--checkpoint", parsed.checkpoint]
    return command(*words)
