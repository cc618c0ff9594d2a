"""The paper's figures: what they must show, by formulas written out again."""

from __future__ import annotations

import io

import numpy as np
import pytest
from matplotlib.colors import same_color
from PIL import Image

from timestepper.experiments import figure1


@pytest.fixture(scope="module")
def figure():
    return figure1.calculate()


@pytest.fixture(scope="module")
def rows(figure):
    keys = [column.key for column in figure.table.columns]
    return {row[0]: dict(zip(keys, row, strict=True)) for row in figure.table.rows}


@pytest.mark.parametrize(("h", "steps"), [(0.01, 300), (0.6, 5)])
def test_eulers_rows_are_a_geometric_series(h, steps, rows):
    j = np.arange(steps + 1)
    error = np.abs((1 - 4 * h) ** j - np.exp(-4 * h * j)).max()
    row = rows[f"Euler, h = {h}"]
    assert row["steps"] == row["evaluations"] == steps
    assert row["largest_error"] == pytest.approx(error)
    assert (row["smallest_step"], row["largest_step"]) == pytest.approx((h, h))


def test_what_the_paper_says(rows):
    """RKF is stable and takes far fewer steps than Euler's small ones; the large are unstable."""
    small, large, adaptive = rows.values()
    assert adaptive["steps"] * 20 < small["steps"]
    assert adaptive["largest_error"] < small["largest_error"] < 0.01
    assert large["largest_error"] > 1
    assert adaptive["largest_step"] > large["largest_step"]
    # In evaluations of f, which the paper does not count, the difference is smaller.
    assert adaptive["evaluations"] == 6 * adaptive["steps"] < small["evaluations"]


def test_what_is_drawn(figure, rows):
    solutions, step_sizes = figure.figure.axes
    exact, *drawn = solutions.lines
    times = exact.get_xdata()
    assert (times[0], times[-1]) == (0, 3)
    np.testing.assert_allclose(exact.get_ydata(), np.exp(-4 * times))
    low, high = solutions.get_ylim()
    for row, line, stairs in zip(rows.values(), drawn, step_sizes.patches, strict=True):
        t, y = line.get_data()
        assert line.get_label().startswith(f"{row['method']}: {row['steps']} steps, largest error")
        assert np.abs(y - np.exp(-4 * t)).max() == pytest.approx(row["largest_error"])
        assert float(line.get_label().split()[-1]) == pytest.approx(row["largest_error"], rel=0.05)
        sizes = stairs.get_data()
        np.testing.assert_allclose(sizes.values, np.diff(t), rtol=1e-10)
        assert same_color(stairs.get_edgecolor(), line.get_color())
        # The unstable solution leaves the limits, the others lie within.
        assert (y.min() < low and y.max() > high) == ("h = 0.6" in row["method"])
        assert (low < y.min() and y.max() < high) == ("h = 0.6" not in row["method"])


def test_png_says_what_made_it(figure):
    picture = Image.open(io.BytesIO(figure.to_png(["command: make it", "commit: 123"])))
    assert picture.format == "PNG"
    assert min(picture.size) > 800
    assert picture.text["Description"] == "command: make it\ncommit: 123"
