"""The paper's tables against the paper, and against formulas written out again."""

from __future__ import annotations

from importlib import import_module

import pytest

from timestepper.controllers import LSTMController
from timestepper.experiments import (
    CALCULATED,
    COUNTED,
    EXPERIMENTS,
    TRAINED,
    table1,
    table2,
    table3,
)


def by_phase(table):
    """The rows by group and phase, as dicts."""
    keys = [column.key for column in table.columns]
    rows = [dict(zip(keys, row, strict=True)) for row in table.rows]
    return {(row[keys[0]], row[keys[1]]): row for row in rows}


FEW = ("ResNet-18", "ResNet-50", "ResNeXt-50", "SENet-50")
"""Those of Table 3 that are counted in a minute."""


@pytest.fixture(
    scope="module",
    params=[FEW, pytest.param(tuple(table3.NETWORKS), marks=pytest.mark.slow)],
    ids=["few", "all"],
)
def table3_rows(request):
    with pytest.MonkeyPatch.context() as patch:
        chosen = {label: table3.NETWORKS[label] for label in request.param}
        patch.setattr(table3, "NETWORKS", chosen)
        return by_phase(table3.count())


def networks_of(rows):
    return list(dict.fromkeys(network for network, _ in rows))


# Printed in the paper: parameters (M) plain and in training, GMAC plain. Where it is None what the
# paper prints does not follow from its text.
PRINTED = {
    "ResNet-18": (11.69, 13.52, 1.81),
    "ResNet-34": (21.80, 23.63, 3.66),
    "ResNet-50": (25.56, 27.83, 3.86),
    "ResNet-101": (44.55, 46.82, None),
    "ResNeXt-50": (25.03, None, 3.77),
    "ResNeXt-101": (44.18, None, 7.51),
    "SENet-50": (28.09, 30.36, 3.87),
    "SENet-101": (49.33, 51.60, None),
}


def test_table3_agrees_with_the_paper(table3_rows):
    for network in networks_of(table3_rows):
        parameters, stepped, gmac = PRINTED[network]
        plain, train = table3_rows[network, "plain"], table3_rows[network, "train"]
        assert round(plain["parameters_millions"], 2) == parameters
        if stepped is not None:
            assert round(train["parameters_millions"], 2) == stepped
        if gmac is not None:
            assert round(plain["gmac"], 2) == gmac


def test_controllers_of_the_resnets(table3_rows):
    # ResNet-18's 13.519512 is 13.520 as well.
    expected = {"ResNet-18": 13.520, "ResNet-34": 23.628, "ResNet-50": 27.826, "ResNet-101": 46.818}
    for network in expected.keys() & set(networks_of(table3_rows)):
        found = table3_rows[network, "train"]["parameters_millions"]
        assert round(found, 3) == expected[network]


def test_table3_has_every_row_and_honest_differences(table3_rows):
    phases = ("plain", "train", "train (Eq. 13)", "infer", "infer (Eq. 13)")
    networks = networks_of(table3_rows)
    assert tuple(networks) in (FEW, tuple(PRINTED))
    assert list(table3_rows) == [(network, phase) for network in networks for phase in phases]
    for row in table3_rows.values():
        for ours, paper, difference in (
            ("parameters_millions", "paper_parameters_millions", "parameters_difference"),
            ("gmac", "paper_gmac", "gmac_difference"),
        ):
            assert row[difference] == pytest.approx(row[ours] - row[paper])


def test_folding_keeps_nothing_and_the_paper_keeps_step_sizes(table3_rows):
    for network in networks_of(table3_rows):
        plain, folded = table3_rows[network, "plain"], table3_rows[network, "infer"]
        assert folded["parameters_millions"] == plain["parameters_millions"]
        assert folded["gmac"] == plain["gmac"]
        kept = table3_rows[network, "infer (Eq. 13)"]
        assert round(kept["parameters_millions"], 2) == kept["paper_parameters_millions"]


def test_resnext_as_the_paper_counts_it(table3_rows):
    """Controllers that read C/4 + C averages give the paper's number, which the note says."""
    for network in ("ResNeXt-50", "ResNeXt-101"):
        if network not in networks_of(table3_rows):
            continue
        plain = table3_rows[network, "plain"]["parameters_millions"]
        narrow = plain + 1e-6 * sum(
            parameter.numel()
            for channels in (256, 512, 1024, 2048)
            for parameter in LSTMController(
                3, channels // 4 + channels, channels, channels // 8
            ).parameters()
        )
        assert round(narrow, 2) == table3_rows[network, "train"]["paper_parameters_millions"]
        less = table3_rows[network, "train"]["parameters_millions"] - narrow
        assert less * 1e6 == pytest.approx(table3.FEWER_IN_RESNEXT)


def test_table2():
    rows = by_phase(table2.count())
    assert [label for label, _ in rows] == (
        ["none"] + ["TSC_indp"] * 4 + ["TSC_2fc"] * 4 + ["TSC_LSTM"] * 4
    )
    found = {
        label: rows[label, "train"]["parameters_millions"]
        for label in ("TSC_indp", "TSC_2fc", "TSC_LSTM")
    }
    assert {label: round(millions, 2) for label, millions in found.items()} == {
        "TSC_indp": 25.57,
        "TSC_2fc": 31.23,
        "TSC_LSTM": 27.83,
    }
    assert rows["TSC_2fc", "train"]["parameters_difference"] == pytest.approx(-0.347, abs=5e-4)
    assert rows["none", "plain"]["gmac"] == pytest.approx(3.858, abs=5e-4)


# Channels and blocks of the stages, r, and the length of w̄ over the channels.
STRUCTURES = {
    "ResNet-56": (((16, 9), (32, 9), (64, 9)), 4, 18),
    "ResNet-18": (((64, 2), (128, 2), (256, 2), (512, 2)), 4, 18),
    "ResNet-34": (((64, 3), (128, 4), (256, 6), (512, 3)), 4, 18),
    "ResNet-50": (((256, 3), (512, 4), (1024, 6), (2048, 3)), 8, 1.25),
    "ResNet-101": (((256, 3), (512, 4), (1024, 23), (2048, 3)), 8, 1.25),
}


@pytest.mark.parametrize(
    "networks",
    [
        pytest.param(("ResNet-56", "ResNet-50"), id="few"),
        pytest.param(tuple(table1.NETWORKS), id="all", marks=pytest.mark.slow),
    ],
)
def test_table1(networks, monkeypatch):
    chosen = {label: table1.NETWORKS[label] for label in networks}
    monkeypatch.setattr(table1, "NETWORKS", chosen)
    rows = by_phase(table1.calculate())
    assert len(rows) == 3 * len(networks)
    for network in networks:
        stages, r, k = STRUCTURES[network]
        kept = sum(blocks * c for c, blocks in stages)
        weights = {
            "TSC_indp": kept,
            "TSC_2fc": sum(blocks * c * c / r * (1 + k) for c, blocks in stages),
            "TSC_LSTM": sum(c * c / r * (1 + 8 / r + k) for c, _ in stages),
        }
        biases = {
            "TSC_indp": 0,
            "TSC_2fc": sum(blocks * (c / r + c) for c, blocks in stages),
            "TSC_LSTM": sum(5 * c / r + c for c, _ in stages),
        }
        for controller in weights:
            row = rows[network, controller]
            assert row["train_formula"] == weights[controller]
            assert row["train_built"] == weights[controller] + biases[controller]
            assert row["train_difference"] == biases[controller]
            assert row["infer_formula"] == kept
            assert row["infer_folded"] == 0


def test_every_experiment_is_registered_with_what_it_can():
    for name in EXPERIMENTS:
        module = import_module(f"timestepper.experiments.{name}")
        assert hasattr(module, "calculate") == (name in CALCULATED)
        assert hasattr(module, "present") == (name in TRAINED)
        assert hasattr(module, "count") == (name in COUNTED)
    assert {"table1", "table2", "table3", "table4"} < set(EXPERIMENTS)
    assert {"figure1", "figure3", "figure4", "figure5"} < set(EXPERIMENTS)
