"""Table and picture of what step sizes depend on."""

import io
import math

import pytest
import torch
from PIL import Image
from rich.console import Console

from timestepper.report import explanation_table, plot_explanations
from timestepper.stepping import Explanation


def explanation(depth=3, deviation=0.04, shares=(0.5, -0.25, 0.75), scale=0.01):
    sensitivity = scale * torch.arange(1.0, depth * depth + 1).view(depth, depth).tril()
    return Explanation(
        tuple(f"layer1.{number}" for number in range(depth)), deviation, *shares, sensitivity
    )


def shown(course):
    """Each row of the table in a terminal of usual width."""
    text = io.StringIO()
    Console(file=text, width=80).print(explanation_table(course))
    lines = [line for line in text.getvalue().splitlines() if line.startswith("│")]
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]


def test_a_row_has_the_numbers():
    # Below the diagonal of 1 … 9: 4 and 7, 8; on it 1, 5, 9.
    earlier = f"{0.01 * (0 + 4 + math.hypot(7, 8)) / 3:.2g}"
    first, last = shown({0: {"layer1": explanation()}, 1: {"layer1": explanation()}})
    assert first == ["layer1", "start", "0.04", "50.0%", "-25.0%", "75.0%", "0.05", earlier]
    assert last == ["", "end", *first[2:]]


def test_no_share_is_no_number_and_zero_has_no_sign():
    nothing = explanation(deviation=0.0, shares=(math.nan,) * 3, scale=0.0)
    rounded = explanation(deviation=1.23e-5, shares=(1.0, 0.0, -1e-9), scale=1e-7)
    first, last = shown({0: {"layer1": nothing}, 5: {"layer1": rounded}})
    assert first == ["layer1", "start", "0", "—", "—", "—", "0", "0"]
    assert last[:6] == ["", "end", "1.2e-05", "100.0%", "0.0%", "0.0%"]


def test_many_epochs_are_thinned_out_and_long_names_take_no_number_away():
    stage = "encoder.stages.2.a_stage_with_a_name_that_is_rather_long"
    rows = shown({epoch: {stage: explanation(deviation=1.23e-5)} for epoch in range(301)})
    epochs = [row[1] for row in rows if row[1]]
    assert (epochs[0], epochs[1], epochs[-2], epochs[-1]) == ("start", "1", "299", "end")
    assert 8 < len(epochs) <= 14
    assert "".join(row[0] for row in rows) == stage
    assert all(row[2] == "1.2e-05" for row in rows if row[1])
    few = shown({epoch: {stage: explanation()} for epoch in range(14)})
    assert [row[1] for row in few if row[1]] == ["start", *map(str, range(1, 13)), "end"]


@pytest.mark.parametrize("scale", [0.01, 0.0])
def test_the_picture_is_drawn_for_any_values(scale, tmp_path):
    shares = (math.nan,) * 3 if scale == 0 else (2.5, -1.75, 0.25)
    by_stage = {"layer1": explanation(shares=shares, scale=scale), "_$x$": explanation(depth=12)}
    plot_explanations({0: by_stage, 1: by_stage}, tmp_path / "explanation.png")
    with Image.open(tmp_path / "explanation.png") as picture:
        assert picture.width > 1000
        picture.verify()
