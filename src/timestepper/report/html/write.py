"""The whole page: which sections it has, and the file."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from timestepper import __version__
from timestepper.data import DataSet
from timestepper.errors import ConfigurationError, TimestepperError
from timestepper.files import is_text, resolved
from timestepper.report.html import comparison, robustness, sections
from timestepper.report.html.costs import Costs, costs
from timestepper.report.html.evidence import Evidence, read_evidence
from timestepper.report.html.groups import Method, methods
from timestepper.report.html.page import Page, render
from timestepper.report.html.parts import Missing, Section
from timestepper.report.html.samples import Samples, classify
from timestepper.training.build import build_data, build_network
from timestepper.training.commands import command
from timestepper.training.configuration import Configuration
from timestepper.training.run import Run
from timestepper.training.trained import Trained, load_trained

Found = TypeVar("Found")


def read_runs(folders: Sequence[Path]) -> list[Evidence]:
    """Read runs' folders.

    Args:
        folders: at least one.

    Raises:
        ConfigurationError: a folder is named twice, is a link to itself, or its path is no text.
        TimestepperError: one of them is not a run, has no epoch yet, or is broken.
    """
    places = [resolved(folder) for folder in folders]
    names = [place.name for place in places]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    for folder, place in zip(folders, places, strict=True):
        if places.count(place) > 1:
            raise ConfigurationError(f"run '{folder}' is given twice; name different runs")
        if not is_text(str(place)):  # All of it may be in a command on the page.
            raise ConfigurationError(
                f"the path of run '{folder}' is not text in this terminal's encoding; rename it, "
                "or set PYTHONUTF8=1"
            )
    return [read_evidence(Run(folder), name) for folder, name in zip(folders, names, strict=True)]


def write_report(
    runs: Sequence[Evidence],
    path: Path,
    *,
    trained: Trained | None = None,
    refresh: int | None = None,
) -> None:
    """Write the page about one run, or about several.

    Args:
        runs: the runs.
        path: the file.
        trained: the network of the only run; by default its last checkpoint is loaded.
        refresh: seconds after which the page loads itself anew; by default it doesn't.

    Raises:
        OSError: the file can't be written.
        ConfigurationError: it is a link to itself.
    """
    several = len(runs) > 1
    page = Page(
        title=f"{len(runs)} runs" if several else runs[0].name,
        sections=_several(runs) if several else _one(runs[0], trained),
        command=command("report", *(run.folder for run in runs)),
        version=__version__,
        refresh=refresh,
    )
    path = resolved(path)  # What a link leads to is replaced, not the link.
    # A training may end while something watches it: both write, each under a name of its own.
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        new.write_text(render(page), encoding="utf-8")
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def _one(run: Evidence, trained: Trained | None) -> list[Section]:
    """Make the sections about one run; without images or checkpoint some say what is missing."""
    found = _or_missing(lambda: load_trained(run.run)) if trained is None else trained
    counted: Costs | Missing
    samples: Samples | Missing
    if isinstance(found, Missing):  # As on a machine without the device that it was trained on.
        samples = found
        images = _or_missing(lambda: build_data(run.configuration))
        counted = _count_one(run.configuration, images)
    else:
        size = (found.images.channels, *found.images.image_size)
        counted = _or_missing(lambda: costs(found.network, size))
        samples = _or_missing(lambda: classify(found))
    return [
        sections.summary(run, samples),
        sections.curves(run),
        sections.step_sizes(run),
        sections.evolution(run),
        sections.explanation(run),
        sections.cost(run, counted),
        sections.stability(run),
        *_disturbed([run]),
        sections.predictions(run, samples),
        sections.again(run),
    ]


def _several(runs: Sequence[Evidence]) -> list[Section]:
    grouped = methods(runs)
    return [
        comparison.overview(grouped, _count(grouped)),
        comparison.curves(grouped),
        comparison.differences(grouped),
        comparison.step_sizes(grouped),
        comparison.stability(runs),
        *_disturbed(runs),
    ]


def _disturbed(runs: Sequence[Evidence]) -> list[Section]:
    return [robustness.noise(runs), robustness.corruptions(runs), robustness.attacks(runs)]


def _count(grouped: Sequence[Method]) -> dict[str, Costs | Missing]:
    """Count what each method's network costs; a data set is loaded once."""
    loaded: dict[str, DataSet | Missing] = {}
    counted: dict[str, Costs | Missing] = {}
    for method in grouped:
        configuration = method.runs[0].configuration
        key = repr(configuration.data)
        if key not in loaded:
            loaded[key] = _or_missing(lambda: build_data(configuration))  # noqa: B023
        counted[method.label] = _count_one(configuration, loaded[key])
    return counted


def _count_one(configuration: Configuration, images: DataSet | Missing) -> Costs | Missing:
    if isinstance(images, Missing):
        return images
    size = (images.channels, *images.image_size)
    return _or_missing(lambda: costs(build_network(configuration, images), size))


def _or_missing(find: Callable[[], Found]) -> Found | Missing:
    """Find something that the page can do without, or say why it can't be found."""
    try:
        return find()
    except TimestepperError as error:
        return Missing(str(error))
