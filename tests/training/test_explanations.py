"""What a run records of what its step sizes depended on."""

import csv
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from trainings import TINY, UPDATES, interrupt, start

import timestepper
from timestepper import data
from timestepper.errors import ExplanationError, RunError
from timestepper.training.build import build_network
from timestepper.training.configuration import NetworkConfiguration, SteppingConfiguration
from timestepper.training.explanations import PARTS, read_explanations, write_explanations
from timestepper.training.run import Run
from timestepper.training.trained import load_trained

DEEPER = NetworkConfiguration("cifar_resnet14")
"""Two blocks in each stage."""
EXPLAINED = {"network": DEEPER, "stepping": SteppingConfiguration("lstm-standardised", None, True)}
FILE = Path("run/explanation.safetensors")


def assert_alike(found, expected):
    assert list(found) == list(expected)
    for stage, explanation in expected.items():
        assert found[stage].blocks == explanation.blocks
        # Computed anew, and rounding depends on where tensors lie in memory.
        for part in PARTS:
            assert getattr(found[stage], part) == pytest.approx(
                getattr(explanation, part), abs=1e-4
            )
        torch.testing.assert_close(
            found[stage].sensitivity, explanation.sensitivity, rtol=1e-3, atol=1e-8
        )


@pytest.mark.parametrize("settings", [{}, {"ema_decay": 0.9}], ids=["last", "average"])
def test_the_start_and_every_epoch_are_recorded(settings):
    start("run", **EXPLAINED, **settings)
    recorded = read_explanations(FILE)
    assert len(recorded) == 3
    assert list(recorded[0]) == ["layer1", "layer2", "layer3"]
    first = build_network(replace(TINY, **EXPLAINED), data.load("digits"))
    assert_alike(recorded[0], timestepper.explain(first))
    assert_alike(recorded[2], timestepper.explain(load_trained(Run(Path("run"))).network))
    assert recorded[0]["layer1"].deviation != recorded[1]["layer1"].deviation
    with Path("run/metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    events = EventAccumulator("run/tensorboard").Reload()
    for stage in recorded[0]:
        for part in PARTS:
            values = [getattr(epoch[stage], part) for epoch in recorded[1:]]
            assert [float(row[f"explained/{stage}/{part}"]) for row in rows] == values
            shown = [scalar.value for scalar in events.Scalars(f"explained/{stage}/{part}")]
            assert shown == pytest.approx(values)


@pytest.mark.parametrize("number", [5, UPDATES + 7])
def test_an_interruption_leaves_the_same_file(number, monkeypatch):
    start("whole", **EXPLAINED)
    interrupt("run", monkeypatch, number, **EXPLAINED)
    start("run", resume=True)
    assert FILE.read_bytes() == Path("whole/explanation.safetensors").read_bytes()


def test_recording_changes_nothing_of_the_training():
    start("run", **EXPLAINED)
    start("unseen", network=DEEPER, stepping=SteppingConfiguration("lstm-standardised"))
    names = ("folded.safetensors", "step_sizes.safetensors")
    for name in names:
        assert (Path("run") / name).read_bytes() == (Path("unseen") / name).read_bytes()
    assert not Path("unseen/explanation.safetensors").exists()


def test_equal_step_sizes_survive_as_such():
    start("run", network=DEEPER, stepping=SteppingConfiguration("indp", None, True), epochs=1)
    recorded = read_explanations(FILE)
    assert recorded[0]["layer1"].deviation == 0
    assert math.isnan(recorded[0]["layer1"].channel)
    assert recorded[1]["layer1"].weights == 0
    assert not recorded[1]["layer1"].sensitivity.any()


def test_one_block_in_each_stage_is_refused_before_anything_is_written():
    with pytest.raises(ExplanationError, match="has one block only"):
        start("run", stepping=SteppingConfiguration(explain=True))
    assert not Path("run").exists()


def test_a_file_comes_back_as_it_was_and_another_is_refused(tmp_path):
    network = timestepper.attach(timestepper.networks.create("cifar_resnet14"))
    path = tmp_path / "explanation.safetensors"
    explanations = timestepper.explain(network)
    write_explanations([explanations, explanations], path)
    for epoch in read_explanations(path):
        for stage, explanation in explanations.items():
            found = epoch[stage]
            assert found.blocks == explanation.blocks
            assert torch.equal(found.sensitivity, explanation.sensitivity)
            assert all(getattr(found, part) == getattr(explanation, part) for part in PARTS)
    whole = path.read_bytes()
    for content in (whole[:-10], b"", b"not a tensor"):
        path.write_bytes(content)
        with pytest.raises(RunError, match="missing or broken; only runs with"):
            read_explanations(path)
    save_file({"weight": torch.zeros(3)}, path)
    with pytest.raises(RunError, match="missing or broken"):
        read_explanations(path)
