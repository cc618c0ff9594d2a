"""``timestepper stability``."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from torch import Tensor, nn

from timestepper import networks
from timestepper.cli.arguments import output_path
from timestepper.data import DataSet
from timestepper.errors import ConfigurationError, RunError, TimestepperError, first_line
from timestepper.files import resolved, seen_from, write_atomically
from timestepper.report import (
    comparison_table,
    plot_eigenvalues,
    plot_gradient_flow,
    plot_growth,
    plot_trajectory,
    stage_table,
    step_table,
)
from timestepper.robustness.images import some_test_images
from timestepper.stability import (
    GradientFlow,
    Stability,
    gradient_flow,
    measure_stability,
    trajectory,
    unroll,
)
from timestepper.training.build import build_data
from timestepper.training.checkpoints import Which
from timestepper.training.compatibility import require_same_images
from timestepper.training.folded import load_plain
from timestepper.training.run import Run
from timestepper.training.trained import load_trained

EXAMPLES = (
    "timestepper stability runs/digits-cifar_resnet20-lstm-0",
    "timestepper stability runs/mine --compare runs/plain",
    "timestepper stability runs/mine/checkpoints/best.pt --images 4 --output stability --force",
    "timestepper stability torchvision/resnet18 --image_size 64",
)
SMALL = 64
"""Height and width of random images."""
FIXED = (1.0, 0.01)
"""Step sizes beside the controller's along which gradients are followed (paper, Eq. 8)."""
OWN_PICTURES = (
    "growth.png",
    "eigenvalues.png",
    "trajectories.png",
    "gradients.png",
    "gradients-[0-9]*.png",
)
"""What the command draws, and so replaces."""
FOLLOWED = 100
"""Test images whose gradients and trajectories are followed; fewer of larger ones than these:"""
FOLLOWED_SIZE = 32


def add_arguments(parser: ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument(
        "network",
        type=str,
        metavar="RUN_OR_CHECKPOINT",
        help="folder of a run, one of its checkpoints (.pt), its folded network (.safetensors), or "
        "a network's name, which stands for freshly initialised weights and random images and "
        "labels",
    )
    parser.add_argument(
        "--compare", nargs="+", type=str, default=[], metavar="OTHER", help="others, named likewise"
    )
    parser.add_argument("--images", type=int, default=2, help="test images to look at")
    parser.add_argument(
        "--directions", type=int, default=10, help="random perturbations of each image"
    )
    parser.add_argument(
        "--epsilon", type=float, default=1e-3, help="their norm, as a fraction of the state's"
    )
    parser.add_argument(
        "--image_size",
        type=int | None,
        help="height and width of the images of networks that are given by name; by default "
        f"{SMALL}, or what the network insists on",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of all that is random")
    parser.add_argument(
        "--output",
        type=str | None,
        metavar="FOLDER",
        help="new folder for tables as JSON and for plots; by default RUN/stability or "
        "stability-NAME",
    )
    parser.add_argument("--force", action="store_true", help="replace the folder's files")


@dataclass(frozen=True)
class Subject:
    """A network with inputs of its own.

    Attributes:
        name: as it was given.
        network: in eval mode.
        images: ``(n, channels, height, width)``; at least as many as are looked at.
        labels: their classes, ``(n,)``; random ones of random images.
        classes: the classes' names where the images are a data set's.
        home: the run's folder.
    """

    name: str
    network: nn.Module
    images: Tensor
    labels: Tensor
    classes: tuple[str, ...] | None = None
    home: Path | None = None


def run(parser: ArgumentParser, parsed: Namespace) -> int:
    """Measure, print the tables, write JSON and plots."""
    for name in ("images", "image_size"):
        number = getattr(parsed, name)
        if number is not None and number < 1:
            raise ConfigurationError(f"{name} is {number}; it must be at least 1")
    if not 0 <= parsed.seed < 2**63:
        raise ConfigurationError(f"seed is {parsed.seed}; it must be from 0 to 2^63 - 1")
    names = [parsed.network, *parsed.compare]
    places = [resolved(name) for name in names]
    twice = next((n for n, p in zip(names, places, strict=True) if places.count(p) > 1), None)
    if twice is not None:
        raise ConfigurationError(f"'{twice}' is given twice; compare different networks")
    subjects = [_open(name, parsed) for name in names]
    if parsed.image_size is not None and all(one.home for one in subjects):
        raise ConfigurationError(
            "image_size is for networks that are given by name; a run's images are those of its "
            "data set"
        )
    home = subjects[0].home
    default = home / "stability" if home else Path("stability-" + names[0].replace("/", "-"))
    folder = output_path(parsed, default, is_folder=True)
    console = Console()
    for one in subjects:  # What can't be measured is said before any work.
        unroll(one.network, one.images[:1])
    measured = {one.name: _measure(one, parsed, console) for one in subjects}
    for name, stability in measured.items():
        console.print(f"\n{name}: {stability.images} images", highlight=False, markup=False)
        console.print(step_table(stability), stage_table(stability))
        for reason in stability.no_bound:
            console.print(f"no bound: {reason}", highlight=False, markup=False)
    if len(measured) > 1:
        console.print(comparison_table(measured))
    for line in _write(folder, subjects, measured):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    return 0


def _open(name: str, parsed: Namespace) -> Subject:
    """Load a network and inputs for it.

    Raises:
        TimestepperError: there is no such run, file or network, or it can't be loaded.
    """
    path = Path(name)
    if path.is_dir() or (path.is_file() and path.suffix == ".pt"):
        if path.is_file() and len(path.parts) < 3:
            path = path.resolve()  # Its run is two folders up.
        run = Run(path if path.is_dir() else path.parent.parent)
        which: Which = "best" if path == run.checkpoints.best else "last"
        if path.is_file() and path not in (run.checkpoints.last, run.checkpoints.best):
            raise RunError(f"{path} is not a run's last or best checkpoint; name one of those")
        trained = load_trained(run, which)
        if trained.warning:
            print(f"timestepper: warning: {trained.warning}", file=sys.stderr)
        return _labelled(name, parsed, trained.network, trained.images, run.folder)
    if path.is_file():
        run = Run(path.parent)
        configuration = run.read_configuration()
        data = build_data(configuration)
        require_same_images(data, run)
        network = load_plain(configuration, data, path)
        return _labelled(name, parsed, network, data, run.folder)
    torch.manual_seed(parsed.seed)
    try:
        network = networks.create(name).eval()
    except ConfigurationError as error:
        raise ConfigurationError(f"there is no run or file {name}, and {error}") from None
    size = _input_size(network, parsed.image_size)
    generator = torch.Generator().manual_seed(parsed.seed)
    try:
        images = torch.randn(parsed.images, *size, generator=generator)
        with torch.no_grad():
            classes = network(images).shape[1]
    except Exception as error:  # whatever a library's network raises for a size
        reason = first_line(error)
        raise ConfigurationError(
            f"{name} does not classify images of shape {size}: {reason}; try --image_size"
        ) from error
    # A fresh network is so sure of what it sees that the loss of that has no gradient.
    labels = torch.randint(classes, (parsed.images,), generator=generator)
    return Subject(name, network, images, labels)


def _labelled(
    name: str, parsed: Namespace, network: nn.Module, data: DataSet, home: Path
) -> Subject:
    """Take some test images of a run's data set, evenly spaced: folders have class after class."""
    device = next(network.parameters()).device
    # Gradients and trajectories keep what every operation makes of each image.
    pixels = data.image_size[0] * data.image_size[1]
    count = max(parsed.images, min(FOLLOWED, FOLLOWED * FOLLOWED_SIZE**2 // pixels))
    chosen = some_test_images(data, count)
    images, labels = next(iter(chosen.batches("test", count, device=device)))
    return Subject(name, network, images, labels, data.classes, home)


def _input_size(network: nn.Module, image_size: int | None) -> tuple[int, int, int]:
    """Give (channels, height, width) of images that a network takes, small ones if it can."""
    config = getattr(network, "pretrained_cfg", None) or {}
    channels, height, width = config.get("input_size", (3, SMALL, SMALL))
    if image_size or not config.get("fixed_input_size"):
        height = width = image_size or SMALL
    return channels, height, width


def _measure(subject: Subject, parsed: Namespace, console: Console) -> Stability:
    """Measure at some of the images, evenly spaced, with a bar that says how far it is."""
    there = len(subject.images)
    count = min(parsed.images, there)
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task(escape(subject.name))
        return measure_stability(
            subject.network,
            subject.images[torch.arange(count) * there // count],
            directions=parsed.directions,
            epsilon=parsed.epsilon,
            seed=parsed.seed,
            progress=lambda what, done, of: bar.update(
                task, description=f"{escape(subject.name)}: {what}", completed=done, total=of
            ),
        )


def _write(
    folder: Path, subjects: Sequence[Subject], measured: Mapping[str, Stability]
) -> Iterator[str]:
    """Write JSON and plots; yield a line for each file as soon as it is there.

    What is there from before goes last: a signal while gradients are followed costs nothing.
    """
    flows: dict[str, dict[str, GradientFlow]] = {one.name: {} for one in subjects}
    for one in subjects:
        for label, h in _step_sizes(one).items():
            try:
                flows[one.name][label] = gradient_flow(
                    one.network, one.images, one.labels, step_size=h
                )
            except TimestepperError as error:
                # With other step sizes than those it was trained with it may overflow.
                yield f"no gradients of {one.name} with {label}: {error}"
    results = {
        one.name: measured[one.name].to_dict()
        | {"gradient_flow": {label: flow.to_dict() for label, flow in flows[one.name].items()}}
        # Names are as they were given, and tell nobody who is elsewhere which run is meant.
        | {"run": seen_from(folder, one.home) if one.home else None}
        for one in subjects
    }
    folder.mkdir(exist_ok=True)
    path = folder / "stability.json"
    write_atomically(path, json.dumps(results, indent=1, allow_nan=False).encode())
    yield f"all numbers: {path}"
    drawn = set()
    for picture, draw in _pictures(subjects, measured, flows):
        try:
            draw(folder / picture)
            drawn.add(folder / picture)
            yield f"plot: {folder / picture}"
        except TimestepperError as error:
            yield f"no {picture}: {error}"
    for pattern in OWN_PICTURES:
        for old in folder.glob(pattern):  # Those of fewer networks may have other names.
            if old not in drawn:
                old.unlink()


def _pictures(
    subjects: Sequence[Subject],
    measured: Mapping[str, Stability],
    flows: Mapping[str, Mapping[str, GradientFlow]],
) -> Iterator[tuple[str, Callable[[Path], None]]]:
    """Give each picture's file name with what draws it."""
    yield "growth.png", partial(plot_growth, measured)
    if any(step.eigenvalues for stability in measured.values() for step in stability.steps):
        yield "eigenvalues.png", partial(plot_eigenvalues, measured)
    for number, one in enumerate(subjects, start=1):
        if flows[one.name]:
            name = f"gradients-{number}.png" if len(subjects) > 1 else "gradients.png"
            yield name, partial(plot_gradient_flow, flows[one.name])
    first = subjects[0]
    if first.classes:
        drawn = [
            one
            for one in subjects
            if one.classes == first.classes and torch.equal(one.labels, first.labels)
        ]

        def draw(path: Path) -> None:
            ways = {one.name: trajectory(one.network, one.images) for one in drawn}
            plot_trajectory(ways, first.labels, path, first.classes)

        yield "trajectories.png", draw


def _step_sizes(subject: Subject) -> dict[str, float | None]:
    """Name the step sizes with which gradients are followed; None: those that it has."""
    fixed: dict[str, float | None] = {f"h = {h:g}": h for h in FIXED}
    if hasattr(subject.network, "time_stepping"):
        return {"controller": None} | fixed
    return fixed
