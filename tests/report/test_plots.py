"""Plots of the analysis: what they show, as far as a test can tell, and that they are pictures."""

from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

import timestepper
from timestepper import networks
from timestepper.errors import StabilityError
from timestepper.report import plot_gradient_flow, plot_trajectory
from timestepper.stability.depth import Depth
from timestepper.stability.gradients import GradientFlow
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
