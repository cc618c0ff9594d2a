"""Curves with intervals: what is drawn where, and what the legend calls it."""

from __future__ import annotations

import math

from timestepper.report import Panel, plot_bands, plot_intervals

A, B = (1.0, 0.5, 1.5), (2.0, math.nan, math.nan)


def colours(axes):
    return {line.get_label(): line.get_color() for line in axes.lines}


def test_a_label_has_one_colour_and_one_entry_wherever_it_is_drawn():
    left = Panel("left", "x", "y", {"a": {1: A, 2: B}, "b": {1: A}})
    right = Panel("right", "x", "y", {"c": {1: A}, "b": {1: B}})
    figure = plot_bands([left, right])
    first, second = map(colours, figure.axes)
    assert first["b"] == second["b"]
    assert len({first["a"], first["b"], second["c"]}) == 3
    (legend,) = figure.legends
    drawn = dict(zip([t.get_text() for t in legend.texts], legend.legend_handles, strict=True))
    assert {name: line.get_color() for name, line in drawn.items()} == {**second, **first}


def test_more_curves_than_colours_are_told_apart():
    figure = plot_bands([Panel("", "x", "y", {str(number): {1: A} for number in range(25)})])
    looks = {(line.get_color(), line.get_linestyle()) for line in figure.axes[0].lines}
    assert len(looks) == 25


def test_an_empty_panel_hides_no_legend():
    figure = plot_bands([Panel("", "x", "y", {}), Panel("", "x", "y", {"a": {1: A}})])
    assert [text.get_text() for text in figure.legends[0].texts] == ["a"]


def test_bands_are_the_intervals():
    (axes,) = plot_bands([Panel("", "x", "y", {"a": {1: A, 2: (3.0, 2.0, 4.0)}})]).axes
    (band,) = axes.collections
    corners = {tuple(point) for point in band.get_paths()[0].vertices.tolist()}
    assert {(1.0, 0.5), (1.0, 1.5), (2.0, 2.0), (2.0, 4.0)} <= corners
    assert list(axes.lines[0].get_ydata()) == [1.0, 3.0]


def test_ticks_make_a_logarithmic_axis():
    (axes,) = plot_bands([Panel("", "x", "y", {"a": {20: A, 506: A}}, ticks=[20, 506])]).axes
    assert axes.get_xscale() == "log"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["20", "506"]


def test_intervals_have_a_line_where_there_is_an_interval():
    (axes,) = plot_intervals({"group": {"a": A, "b": B}}, "x").axes
    spans = [list(line.get_xdata()) for line in axes.lines]
    assert [0.5, 1.5] in spans
    assert [1.0] in spans
    assert [2.0] in spans
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
    assert len(plot_intervals({"nothing": {}}, "x").axes) == 1


def test_the_axis_ends_where_values_do():
    wide = {"a": {1: (90.0, 60.0, 120.0), 2: (50.0, -40.0, 140.0)}}
    (axes,) = plot_bands([Panel("", "x", "accuracy (%)", wide, bounds=(0, 100))]).axes
    low, high = axes.get_ylim()
    assert -5 < low <= 0
    assert 100 <= high < 105
    (free,) = plot_bands([Panel("", "x", "y", wide)]).axes
    assert free.get_ylim()[1] > 140


def test_epochs_are_whole_numbers():
    (axes,) = plot_bands([Panel("", "epoch", "y", {"a": {1: A, 2: A, 3: A}})]).axes
    axes.figure.canvas.draw()
    assert all(tick == round(tick) for tick in axes.get_xticks())
    (axes,) = plot_bands([Panel("", "noise", "y", {"a": {0: A, 0.5: A, 1: A}})]).axes
    assert not all(tick == round(tick) for tick in axes.get_xticks())
