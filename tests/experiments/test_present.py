"""Tables and figures of made-up runs, against numbers worked out here."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
from made import make_run, make_steps
from scipy import stats

from timestepper.errors import ConfigurationError, RunError
from timestepper.experiments import (
    alternatives,
    controllers,
    figure3,
    figure4,
    figure5,
    table2,
    table3,
    table4,
)
from timestepper.experiments.method_comparison import runs_table
from timestepper.experiments.outcomes import read_outcomes
from timestepper.experiments.plan import plan
from timestepper.experiments.study import Noise, Scale

ONE = Scale(("smoke",), {"ResNet-50": "cifar_resnet8"}, 3)
ACCURACY = {"plain": (0.90, 0.92, 0.91), "tsc-lstm": (0.93, 0.94, 0.95)}
T = 4.302653
"""Student's 97.5 % quantile for two degrees of freedom."""


def made(scale=ONE, accuracy=ACCURACY, runs="runs"):
    planned = plan(tuple(accuracy), scale, Path(runs), None)
    for each in planned:
        make_run(each, accuracy[each.method][each.seed], loss=1 + each.seed)
    return planned


def rows(result):
    table = getattr(result, "table", result)
    keys = [column.key for column in table.columns]
    return [dict(zip(keys, row, strict=True)) for row in table.rows]


def test_errors_and_differences():
    planned = made()
    result = table2.present(ONE, planned, read_outcomes(planned))
    plain, stepped = rows(result)
    assert (plain["method"], stepped["method"]) == ("plain", "TSC_LSTM")
    assert plain["error_percent"] == pytest.approx(9.0)
    assert plain["error_interval"] == pytest.approx(T * 1.0 / math.sqrt(3), rel=1e-6)
    assert plain["loss"] == pytest.approx(2.0)
    assert math.isnan(plain["error_difference"])
    each = [-3.0, -2.0, -4.0]
    assert stepped["error_difference"] == pytest.approx(np.mean(each))
    assert stepped["error_difference_interval"] == pytest.approx(T * 1.0 / math.sqrt(3), rel=1e-6)
    assert stepped["p"] == pytest.approx(stats.ttest_1samp(each, 0).pvalue)
    assert (stepped["paper_error_percent"], stepped["seeds"]) == (23.63, 3)
    assert stepped["paper_error_difference"] == pytest.approx(-0.79)


def test_seeds_that_only_one_side_has_are_not_compared():
    planned = made()
    (lost,) = [e for e in planned if (e.method, e.seed) == ("plain", 1)]
    lost.run.folded.unlink()
    plain, stepped = rows(alternatives.present(ONE, planned, read_outcomes(planned)))
    assert (plain["seeds"], stepped["seeds"]) == (2, 3)
    assert stepped["error_difference"] == pytest.approx(np.mean([-3.0, -4.0]))
    notes = alternatives.present(ONE, planned, read_outcomes(planned)).table.notes
    assert "Failed, and therefore left out: plain of ResNet-50 (digits, 1 epoch), seed 1." in notes


def test_a_method_without_any_run_has_dashes():
    planned = made()
    kept = [o for o in read_outcomes(planned) if o.planned.method == "plain"]
    table = alternatives.present(ONE, planned, kept).table
    assert rows(table)[1]["seeds"] == 0
    assert "| TSC_LSTM | 0 | — | — | — | — |" in table.to_markdown(["made"])
    assert "ResNet-50,TSC_LSTM,0,,,,,,,\n" in table.to_csv(["made"])


def test_notes_name_data_protocol_networks_and_commits():
    planned = made()
    planned[0].run.provenance.write_text(
        "from the start:\n  commit: abc\n  hardware: an abacus\nthen:\n  commit: def\n"
    )
    table = table3.present(ONE, planned, read_outcomes(planned)).table
    assert table.notes[0].startswith(
        "Trained on digits, 1 epoch (recipe smoke); precision 32-true. Networks: ResNet-50 is "
        "cifar_resnet8."
    )
    assert table.notes[1] == "Trained by the code of abc, def, on an abacus."


def test_two_protocols_are_told_apart():
    scale = dataclasses.replace(ONE, protocols=("smoke", "cifar10"))
    planned = made(scale)
    found = rows(table3.present(scale, planned, read_outcomes(planned)))
    assert [row["network"] for row in found[::2]] == [
        "digits, 1 epoch: ResNet-50",
        "CIFAR-10, 300 epochs: ResNet-50",
    ]


def test_every_training_by_itself():
    planned = made()
    found = rows(runs_table(ONE, read_outcomes(planned)))
    assert len(found) == 6
    assert found[1]["error_percent"] == pytest.approx(7.0)
    assert (found[1]["method"], found[1]["seed"], found[1]["commit"]) == ("tsc-lstm", 0, "abc")


def test_figure5_is_drawn_against_depth():
    scale = dataclasses.replace(ONE, networks={"8": "cifar_resnet8", "14": "cifar_resnet14"})
    planned = made(scale)
    result = figure5.present(scale, planned, read_outcomes(planned))
    plain, stepped = result.figure.axes[0].lines
    assert list(plain.get_xdata()) == [8, 14]
    assert list(plain.get_ydata()) == pytest.approx([91, 91])
    assert list(stepped.get_ydata()) == pytest.approx([94, 94])
    assert len(rows(result)) == 4


def test_figure3_has_every_epoch():
    scale = Scale(("quick-cifar10",), {"ResNet-8": "cifar_resnet8"}, 3)
    planned = made(scale)
    found = rows(figure3.present(scale, planned, read_outcomes(planned)))
    assert [row["epoch"] for row in found] == [1, 2, 3, 4, 5] * 2
    assert found[0]["test_error_percent"] == pytest.approx(100 - 91 / 5)
    assert found[4]["test_error_percent"] == pytest.approx(9)
    assert found[4]["test_error_interval"] == pytest.approx(T / math.sqrt(3), rel=1e-6)


def test_figure4_averages_draws_and_pairs_seeds():
    scale = dataclasses.replace(ONE, noise=Noise((0.0, 1.0), 2))
    planned = made(scale)
    for each in planned:
        lower = 0.2 if each.method == "plain" else 0.1
        accuracy = [[0.9, 0.9 - lower], [0.9, 0.8 - lower + each.seed / 100]]
        after = 2.0 if each.method == "plain" else 1.0
        loss = [[1.0, after], [1.0, after + 1 + each.seed / 5]]
        each.noise_file.write_text(json.dumps({"accuracy": accuracy, "loss": loss}))
    found = rows(figure4.present(scale, planned, read_outcomes(planned)))
    plain, stepped = found[1], found[3]
    assert plain["network"] == stepped["network"] != ""
    assert (plain["method"], stepped["method"]) == ("plain (Δt = 1)", "TSC_LSTM")
    assert plain["accuracy_percent"] == pytest.approx(65.5)
    assert plain["accuracy_interval"] == pytest.approx(T * 0.5 / math.sqrt(3), rel=1e-6)
    assert plain["loss"] == pytest.approx(np.mean([2.5, 2.6, 2.7]))
    assert stepped["growth_difference"] == pytest.approx(np.mean([0.5, 0.6, 0.7]) - 1.6)
    assert stepped["accuracy_difference"] == pytest.approx(10)
    # Each seed differs by the same: no spread, and therefore no interval.
    assert math.isnan(stepped["accuracy_difference_interval"])
    first = rows(runs_table(scale, read_outcomes(planned)))[0]
    assert first["error_percent_at_noise_1"] == pytest.approx(35)
    assert first["loss_at_noise_0"] == 1.0
    assert math.isnan(found[0]["accuracy_difference"])


def test_controllers_are_measured_against_half_gamma():
    scale = dataclasses.replace(ONE, noise=Noise((0.0, 0.3), 2), bound=True)
    accuracy = {"half-gamma": (0.90, 0.92, 0.91), "lstm-plus": (0.93, 0.94, 0.95)}
    planned = made(scale, accuracy)
    for each in planned:
        after = 4.0 if each.method == "half-gamma" else 3 + each.seed / 10
        each.noise_file.write_text(json.dumps({"loss": [[1.0, after], [1.2, after + 0.4]]}))
        bound = None if each.method == "half-gamma" else 30 + each.seed
        each.bound_file.write_text(json.dumps({"log10_bound": bound}))
    mark, plus = rows(controllers.present(scale, planned, read_outcomes(planned)))
    assert (mark["method"], plus["method"]) == ("last γ from 0.5", "lstm+")
    assert math.isnan(mark["error_difference"])
    assert math.isnan(mark["log10_bound"])
    assert plus["error_difference"] == pytest.approx(-3)
    assert plus["error_difference_interval"] == pytest.approx(T / math.sqrt(3), rel=1e-6)
    assert plus["noise_difference"] == pytest.approx(1.1 - 2)
    assert plus["noise_difference_interval"] == pytest.approx(T * 0.1 / math.sqrt(3), rel=1e-6)
    assert plus["log10_bound"] == pytest.approx(31)
    assert plus["log10_bound_interval"] == pytest.approx(T / math.sqrt(3), rel=1e-6)


@pytest.mark.parametrize("experiment", [controllers, figure4])
def test_what_measures_noise_needs_it(experiment):
    with pytest.raises(ConfigurationError, match="give its recipe"):
        experiment.check(ONE)


def test_table4_shows_start_end_and_the_paper():
    planned = made(accuracy={"tsc-lstm": (0.9, 0.9, 0.9)})
    for each in planned:
        steps = {"layer1.0": [0.5, 0.6], "layer3.1": [0.5, 0.7 + each.seed / 10]}
        make_steps(each, steps)
    result = table4.present(ONE, planned, read_outcomes(planned))
    first, second = rows(result)
    assert (first["block"], second["block"]) == ("layer1.0", "layer3.1")
    assert first["first_step_size"] == pytest.approx(0.5)
    assert first["step_size"] == pytest.approx(0.6)
    assert second["step_size"] == pytest.approx(0.8)
    assert second["step_size_interval"] == pytest.approx(T * 0.1 / math.sqrt(3), rel=1e-5)
    assert second["deviation_over_channels"] == pytest.approx(0.1)
    assert math.isnan(first["paper_step_size"])
    assert second["paper_step_size"] == 0.731  # C-4_2 of TSC-50
    curves = {line.get_label(): line.get_ydata() for line in result.figure.axes[0].lines}
    assert list(curves["layer3.1"]) == pytest.approx([0.5, 0.8])


def test_a_finished_run_whose_metrics_are_damaged_is_one_line():
    planned = made()
    planned[0].run.metrics.write_text("epoch,test_accuracy\n1,?\n")
    with pytest.raises(RunError, match=r"cifar_resnet8-plain-0 is finished, but metrics.csv or"):
        read_outcomes(planned)
