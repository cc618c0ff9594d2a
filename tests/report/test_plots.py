"""Plots of the analysis: what they show, as far as a test can tell, and that they are pictures."""

import errno
import io
import math
import os
import warnings
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from endings import contents
from matplotlib.figure import Figure
from PIL import Image
from rich.console import Console
from torch import nn

import timestepper
from timestepper import networks
from timestepper.errors import StabilityError
from timestepper.report import (
    plot_curves,
    plot_gradient_flow,
    plot_growth,
    plot_step_sizes,
    plot_trajectory,
    stage_table,
    step_size_table,
    step_table,
)
from timestepper.stability import Stability
from timestepper.stability.depth import Depth
from timestepper.stability.gradients import GradientFlow
from timestepper.stability.measure import StageStability, StepStability
from timestepper.stability.trajectories import Trajectory, trajectory


@pytest.fixture
def figures(monkeypatch):
    """Keep the figures that are saved."""
    kept = []
    save = Figure.savefig

    def savefig(self, *args, **kwargs):
        kept.append(self)
        save(self, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", savefig)
    return kept


def is_picture(path):
    with Image.open(path) as picture:
        picture.verify()
    return True


def texts(legend):
    return [text.get_text() for text in legend.get_texts()]


def is_inside(legend):
    """Tell whether a legend is drawn on its figure, all of it."""
    figure = legend.get_figure(root=True)
    figure.canvas.draw()
    box = legend.get_window_extent()
    return box.x0 >= 0 and box.x1 <= figure.bbox.x1


def test_full_disk_leaves_the_picture_of_before(monkeypatch):
    history = [{"epoch": 1, "train_loss": 1.0, "train_accuracy": 0.5}]
    plot_curves(history, Path("curves.png"))
    before = contents()

    def fsync(file):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match=r"device: 'curves\.png'$"):
        plot_curves(history, Path("curves.png"))
    assert contents() == before


class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x):
        return x + self.norm(self.conv(x).relu())


def attached(counts, **options):
    """Attach to a network of stages with so many blocks each, behind a layer that widens."""
    stages = {
        name: nn.Sequential(nn.Conv2d(width, width + 1, 1), *(Block(width + 1) for _ in range(n)))
        for width, (name, n) in enumerate(counts.items(), start=4)
    }
    network = nn.Sequential(OrderedDict(features=nn.Sequential(OrderedDict(stages))))
    return timestepper.attach(network, example_input=torch.zeros(1, 4, 2, 2), **options)


def test_names_of_blocks_and_stages_that_are_long(figures):
    counts = {f"a_stage_whose_name_is_long_{number}": 4 for number in range(5)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib's, where there is no room
        plot_step_sizes(attached(counts), Path("steps.png"))
    upper = figures[0].subfigs[0]
    labels = [label.get_text() for label in upper.axes[0].get_xticklabels()]
    assert labels == [f"{stage}.{block}" for stage in counts for block in range(1, 5)]
    assert len(texts(upper.legends[0])) == 5
    assert is_inside(upper.legends[0])


def test_stages_of_one_block_have_a_spread(figures):
    network = attached({"one": 1, "two": 2})
    plot_step_sizes(network, Path("steps.png"))
    line, band = figures[0].subfigs[0].axes[0].collections
    rows = timestepper.step_sizes(network)["features.one.1"].double()
    (ends,) = line.get_segments()
    assert ends[:, 1] == pytest.approx([rows.quantile(0.1).item(), rows.quantile(0.9).item()])
    assert len(band.get_paths()) == 1


def test_step_sizes_that_are_equal_have_one_colour(figures):
    plot_step_sizes(attached({"one": 1, "two": 2}, controller=0.5), Path("steps.png"))
    *panels, _ = figures[0].subfigs[1].axes
    scales = {(one.norm.vmin, one.norm.vmax) for panel in panels for one in panel.images}
    ((low, high),) = scales
    assert low == 0.5 < high


def test_names_that_look_like_mathematics(figures):
    plot_step_sizes(attached({"a$b$c_^": 2}), Path("steps.png"))
    upper, lower = figures[0].subfigs
    assert texts(upper.legends[0])[0].startswith(r"features.a\$b\$c_^: T = ")
    assert lower.axes[0].get_title() == r"features.a\$b\$c_^"


def test_names_that_look_like_markup():
    measured = (StepStability("x[/red]", "y[/red]", *[1.0] * 7, (), 1.0, 1.0),)
    whole = Stability(measured, (StageStability("y[/red]", *[1.0] * 4),), *[1.0] * 3, 1, 0.1, ())
    network = attached({"x[/red]": 2})
    for table in (step_table(whole), stage_table(whole), step_size_table(network)):
        console = Console(width=160, file=io.StringIO())
        console.print(table)
        assert "[/red]" in console.file.getvalue()


def test_growth_that_is_zero_is_not_drawn(figures):
    steps = [StepStability("b", "s", *[1.0] * 7, (), growth, growth) for growth in (10.0, 0.0)]
    whole = Stability(tuple(steps), (), *[1.0] * 3, 1, 0.1, ())
    plot_growth({"n" * 60: whole, "m": whole}, Path("growth.png"))
    (axes,) = figures[0].axes
    assert list(axes.lines[1].get_ydata()) == pytest.approx([1.0, math.nan], nan_ok=True)
    assert is_inside(figures[0].legends[0])


def make_depth(*sizes, step=1.0):
    """Make a depth whose sizes are given, stages named after them."""
    steps = len(sizes) - 1
    return Depth(
        names=tuple(f"layer{n}" for n in range(steps)),
        stages=tuple(f"stage{size[0]}" for size in sizes[1:]),
        times=tuple(step * n for n in range(steps + 1)),
        sizes=sizes,
    )


def test_gradient_flow(figures):
    sizes = ((4, 16),) * 3 + ((8, 4),) * 2
    flows = {
        "controller": GradientFlow(make_depth(*sizes, step=0.5), (5.0, 4.0, 3.0, 2.0, 1.0)),
        "h = 1": GradientFlow(make_depth(*sizes), (5e3, 4e2, 3e1, 2.0, 1e-1)),
    }
    plot_gradient_flow(flows, Path("flow.png"))
    assert is_picture("flow.png")
    (axes,) = figures[0].axes
    assert axes.get_yscale() == "log"
    assert [list(line.get_ydata()) for line in axes.lines[:2]] == [
        list(f.norms) for f in flows.values()
    ]
    (border,) = axes.lines[2:]
    assert list(border.get_xdata()) == [2.5, 2.5]
    assert [t.get_text() for t in axes.child_axes[0].get_xticklabels()] == ["stage4", "stage8"]
    assert texts(figures[0].legends[0]) == ["controller (T = 2)", "h = 1 (T = 4)"]


@pytest.mark.parametrize("steps", [1, 27, 252])
def test_gradient_flow_of_any_depth(steps):
    depth = make_depth(*[(8, 4)] * (steps + 1))
    plot_gradient_flow({"h = 1": GradientFlow(depth, (0.0,) + (1.0,) * steps)}, Path("flow.svg"))
    assert Path("flow.svg").read_text().startswith("<?xml")


def test_trajectory_of_a_plain_and_a_time_stepped_network(figures):
    torch.manual_seed(0)
    plain = networks.create("cifar_resnet20", num_classes=3).eval()
    stepped = timestepper.attach(networks.create("cifar_resnet20", num_classes=3)).eval()
    images, labels = torch.randn(6, 3, 16, 16), torch.tensor([0, 1, 2, 0, 1, 2])
    ways = {"plain": trajectory(plain, images), "time-stepped": trajectory(stepped, images)}
    plot_trajectory(ways, labels, Path("way.png"), ("cat", "dog", "eel"))
    assert is_picture("way.png")
    (figure,) = figures
    assert [part.get_suptitle() for part in figure.subfigs] == ["plain", "time-stepped"]
    for part, way in zip(figure.subfigs, ways.values(), strict=True):
        assert len(part.axes) == 3
        assert f"{way.depth.times[-1]:.3g}" in part.axes[2].get_title()
        assert [len(axes.lines) for axes in part.axes] == [6, 6, 6]
        assert [len(axes.lines[0].get_xdata()) for axes in part.axes] == [4, 3, 3]
    assert texts(figure.legends[0])[:3] == ["cat", "dog", "eel"]


def make_trajectory(features):
    return Trajectory(
        make_depth(*((len(f[0]), 1) for f in features)), tuple(features), tuple(features)
    )


def test_principal_components_of_states_in_a_plane(figures):
    """In a plane of many dimensions, points keep their distances."""
    torch.manual_seed(0)
    plane = torch.linalg.qr(torch.randn(7, 2).double()).Q
    states = [torch.randn(4, 2).double() @ plane.T for _ in range(5)]
    plot_trajectory({"flat": make_trajectory(states)}, torch.arange(4), Path("way.png"))
    (axes,) = figures[0].axes
    drawn = torch.stack([torch.tensor(line.get_xydata()) for line in axes.lines])
    expected = torch.stack(states, 1)
    for one, other in zip(drawn.flatten(0, 1), expected.flatten(0, 1), strict=True):
        distances = (drawn.flatten(0, 1) - one).norm(dim=1)
        torch.testing.assert_close(distances, (expected.flatten(0, 1) - other).norm(dim=1))


def test_ten_classes_are_coloured_and_the_others_grey(figures):
    torch.manual_seed(0)
    labels = torch.tensor([*range(5, 15), *range(5, 15), 0, 1, 2])
    states = [torch.randn(23, 3) for _ in range(3)]
    plot_trajectory({"many": make_trajectory(states)}, labels, Path("way.png"))
    colours = [line.get_color() for line in figures[0].axes[0].lines]
    assert len(set(colours[:10])) == 10
    assert colours[:10] == colours[10:20]
    assert len(set(colours[20:])) == 1
    names = texts(figures[0].legends[0])
    assert names[:11] == [*map(str, range(5, 15)), "3 other classes"]


def test_states_without_two_of_one_size():
    states = [torch.randn(2, width) for width in (2, 4, 8)]
    with pytest.raises(StabilityError, match="states of odd change their size with each step"):
        plot_trajectory({"odd": make_trajectory(states)}, torch.tensor([0, 1]), Path("way.png"))
