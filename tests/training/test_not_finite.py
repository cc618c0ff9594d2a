"""Losses and gradients that are not finite: where they come from is named, or they are left out."""

import csv
from pathlib import Path

import pytest
import torch
from torch import nn
from trainings import UPDATES, assert_same_end, at_step, checkpoint, interrupt, start

from timestepper.errors import RunError
from timestepper.training.configuration import OptimizerConfiguration, SteppingConfiguration
from timestepper.training.trainer import Trainer

SKIP = OptimizerConfiguration(skip_not_finite=True)


def poison(name):
    """Make one value of a parameter infinite."""

    def act(trainer):
        with torch.no_grad():
            trainer.network.get_parameter(name).view(-1)[0] = torch.inf

    return act


@pytest.mark.parametrize(
    ("parameter", "layer"),
    [
        ("conv1.weight", "conv1"),
        ("layer2.0.conv1.weight", r"layer2\.0\.conv1 \(step sizes of layer2\.0: nan to nan\)"),
        ("fc.bias", "fc"),
    ],
)
def test_the_first_layer_is_named(parameter, layer, monkeypatch):
    at_step(monkeypatch, UPDATES + 4, poison(parameter))
    said = rf"the training loss is (nan|inf) in epoch 2, step 4 at {layer}; "
    with pytest.raises(RunError, match=said):
        start("run")
    assert checkpoint("run")["epoch"] == 1


class Pole(nn.Module):
    """Infinite at zero."""

    def forward(self, x):
        return x + 1 / (0 * x)


class Root(nn.Module):
    """Finite forwards, and infinite backwards."""

    def forward(self, x):
        return x + (0 * x).sqrt()


@pytest.mark.parametrize(
    ("module", "what", "layer"),
    [(Pole, "the training loss is nan", "relu"), (Root, "a gradient is not finite", "bn2")],
)
def test_the_step_sizes_are_named(module, what, layer, monkeypatch):
    def replace_relu(trainer):
        trainer.network.layer2[0].relu = module()

    at_step(monkeypatch, 3, replace_relu)
    steps = r"\(step sizes of layer2\.0: 0\.\d+ to 0\.\d+\)"
    said = rf"{what} in epoch 1, step 3 at layer2\.0\.{layer} {steps}; there is no checkpoint yet"
    with pytest.raises(RunError, match=said):
        start("run")


def test_images_that_are_not_finite_are_named(monkeypatch):
    monkeypatch.setattr(Trainer, "step", with_bad_images(Trainer.step, {5}))
    with pytest.raises(RunError, match="epoch 1, step 5 at the images; there is no checkpoint yet"):
        start("run")


def with_bad_images(step, numbers):
    """Give some optimizer steps an image that is not a number."""
    made = []

    def changed(trainer, inputs, labels):
        made.append(1)
        if len(made) in numbers:
            inputs = inputs.clone()
            inputs[0, 0, 0, 0] = torch.nan
        return step(trainer, inputs, labels)

    return changed


def metrics(folder):
    with (Path(folder) / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_steps_are_skipped_as_if_they_had_not_been(monkeypatch):
    """Neither weights nor the norms' statistics nor the metrics know of them."""
    seen = []
    step = Trainer.step

    def watched(trainer, inputs, labels):
        before = {k: v.clone() for k, v in trainer.network.state_dict().items()}
        loss = step(trainer, inputs, labels)
        after = trainer.network.state_dict()
        seen.append(all(torch.equal(before[k], after[k]) for k in before))
        return loss

    monkeypatch.setattr(Trainer, "step", with_bad_images(watched, {3, UPDATES + 2, UPDATES + 3}))
    start("run", optimizer=SKIP)
    assert [number for number, same in enumerate(seen, 1) if same] == [3, UPDATES + 2, UPDATES + 3]
    assert [row["skipped_steps"] for row in metrics("run")] == ["1", "2"]
    assert all(float(row["train_loss"]) < 10 for row in metrics("run"))


def test_skipping_goes_on_after_an_interruption(monkeypatch):
    with monkeypatch.context() as patches:
        patches.setattr(Trainer, "step", with_bad_images(Trainer.step, {3}))
        start("unbroken", optimizer=SKIP)
    with monkeypatch.context() as patches:
        patches.setattr(Trainer, "step", with_bad_images(Trainer.step, {3}))
        interrupt("run", patches, 9, optimizer=SKIP)
    start("run", resume=True)
    assert_same_end("run", "unbroken")


def test_an_epoch_without_a_good_step_stops(monkeypatch):
    monkeypatch.setattr(Trainer, "step", with_bad_images(Trainer.step, range(1000)))
    with pytest.raises(RunError, match=r"no step has finite gradients in epoch 1; there is no"):
        start("run", optimizer=SKIP)


def test_nothing_changes_where_all_is_finite():
    start("run")
    start("skipping", optimizer=SKIP)
    for name, value in checkpoint("run")["network"].items():
        assert torch.equal(value, checkpoint("skipping")["network"][name])


def test_another_skip_setting_is_refused(monkeypatch):
    interrupt("run", monkeypatch, 3)
    path = Path("run/configuration.yaml")
    path.write_text(path.read_text().replace("skip_not_finite: false", "skip_not_finite: true"))
    with pytest.raises(RunError, match=r"another optimizer\.skip_not_finite; put back"):
        start("run", resume=True)


def test_plain_networks_have_no_step_sizes_to_name(monkeypatch):
    at_step(monkeypatch, 4, poison("layer2.0.conv1.weight"))
    with pytest.raises(RunError, match=r"step 4 at layer2\.0\.conv1; there is no"):
        start("run", stepping=SteppingConfiguration("none"))
