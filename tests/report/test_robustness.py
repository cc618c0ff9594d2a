"""Plots and tables of robustness: the numbers that they show."""

import pytest
import torch

from timestepper.report import every_score, plot_robustness, robustness_table
from timestepper.robustness import Outcome


def make_outcome(threat, unit, levels, cases, base=0.0):
    shape = len(cases), len(levels)
    scores = base + torch.arange(shape[0] * shape[1], dtype=torch.float64).view(shape) / 100
    return Outcome(threat, "It says.", unit, levels, cases, scores, 10 * scores)


NOISE = {
    "$a_b$": make_outcome("noise", "standard deviation", (0.0, 1.0), ("draw 0", "draw 1")),
    "_plain": make_outcome("noise", "standard deviation", (0.0, 1.0), ("draw 0", "draw 1"), 0.5),
}
CORRUPTIONS = {
    "one": make_outcome("corruptions", "severity", (1.0, 5.0), ("fog", "gaussian_noise"))
}


def test_curves_of_noise():
    left, right = plot_robustness(NOISE).axes
    assert [list(line.get_xdata()) for line in left.lines] == 2 * [[0.0, 1.0]]
    assert list(left.lines[0].get_ydata()) == pytest.approx([1.0, 2.0])
    assert list(left.lines[1].get_ydata()) == pytest.approx([51.0, 52.0])
    assert list(right.lines[0].get_ydata()) == pytest.approx([0.1, 0.2])
    low, high = (
        bound([point[1] for path in left.collections[0].get_paths() for point in path.vertices])
        for bound in (min, max)
    )
    assert (low, high) == pytest.approx((0.0, 3.0))
    assert left.get_ylabel() == "accuracy (%), mean of 2 draws"
    assert right.get_ylabel() == "cross-entropy, mean of 2 draws"
    (legend,) = plot_robustness(NOISE).legends
    assert [text.get_text() for text in legend.get_texts()] == [r"\$a_b\$", " _plain"]


def test_many_networks_are_told_apart():
    outcome = NOISE["_plain"]
    left, _ = plot_robustness({str(number): outcome for number in range(25)}).axes
    assert len({(line.get_color(), line.get_linestyle()) for line in left.lines}) == 25


def test_legend_of_long_names_is_on_the_figure():
    outcome = NOISE["_plain"]
    figure = plot_robustness({f"a-run-whose-name-is-quite-long-{seed}": outcome for seed in "012"})
    figure.canvas.draw()
    box = figure.legends[0].get_window_extent()
    assert 0 <= box.x0 < box.x1 <= figure.bbox.x1


def test_curves_of_attacks_are_in_grey_levels():
    outcome = make_outcome("pgd", "ε", (0.0, 8 / 255), ("pgd",))
    left, right = plot_robustness({"one": outcome}).axes
    assert list(left.lines[0].get_xdata()) == pytest.approx([0, 8])
    assert left.get_xlabel() == right.get_xlabel() == "ε (255ths of white)"
    assert left.get_ylabel() == "accuracy (%)"
    assert not left.collections
    assert plot_robustness({"one": make_outcome("pgd", "ε", (0.1,), ("pgd",))}) is None
    assert robustness_table({"one": outcome}).rows[1] == pytest.approx(("one", 8, 1.0, 0.1))


def test_small_levels_are_told_apart():
    for threat, unit, levels, shown in (
        ("noise", "standard deviation", (0.0, 0.0001, 0.0002), ["0", "0.0001", "0.0002"]),
        ("pgd", "ε", (1e-5, 8 / 255), ["0.00255", "8"]),
    ):
        table = robustness_table({"one": make_outcome(threat, unit, levels, ("draw 0",))})
        assert [table.columns[1].show(row[1]) for row in table.rows] == shown


def test_bars_of_corruptions():
    left, right = plot_robustness(CORRUPTIONS).axes
    assert list(left.lines[0].get_ydata()) == pytest.approx([1.0, 2.0])
    assert [bar.get_width() for bar in right.patches] == pytest.approx([0.5, 2.5])
    assert [text.get_text() for text in right.get_yticklabels()] == ["fog", "gaussian noise"]


def test_table_of_corruptions():
    table = robustness_table(CORRUPTIONS)
    expected = [("fog", 0.5, 0.05), ("gaussian_noise", 2.5, 0.25), ("mean", 1.5, 0.15)]
    for row, (case, accuracy, loss) in zip(table.rows, expected, strict=True):
        assert row == ("one", case, pytest.approx(accuracy), pytest.approx(loss))
    assert table.notes == ["It says.", "Of each corruption the mean over its severities."]


def test_every_score():
    text = every_score(NOISE).to_csv(["command: it"])
    assert text == (
        "# command: it\n# It says.\nnetwork,case,deviation,accuracy,loss\n"
        "$a_b$,draw 0,0.0,0.0,0.0\n$a_b$,draw 0,1.0,0.01,0.1\n"
        "$a_b$,draw 1,0.0,0.02,0.2\n$a_b$,draw 1,1.0,0.03,0.3\n"
        "_plain,draw 0,0.0,0.5,5.0\n_plain,draw 0,1.0,0.51,5.1\n"
        "_plain,draw 1,0.0,0.52,5.2\n_plain,draw 1,1.0,0.53,5.3\n"
    )
