"""What is timed is the training itself."""

from dataclasses import replace

import pytest
import torch

from timestepper.data import load
from timestepper.errors import ConfigurationError
from timestepper.speed import measure_speed
from timestepper.speed.measurements import _trainer, _work
from timestepper.training.build import build_fabric
from timestepper.training.configuration import (
    Configuration,
    DataConfiguration,
    NetworkConfiguration,
    ScheduleConfiguration,
)
from timestepper.training.schedule import learning_rate
from timestepper.training.trainer import Trainer

CONFIGURATION = Configuration(
    network=NetworkConfiguration("cifar_resnet8"),
    data=DataConfiguration(image_size=16),
    schedule=ScheduleConfiguration(warmup_epochs=3),
    batch_size=256,
    accelerator="cpu",
)


def test_sides_and_shares(tmp_path, monkeypatch):
    steps = []
    step = Trainer.step

    def counted(trainer, inputs, labels):
        steps.append(hasattr(trainer.network, "time_stepping"))
        return step(trainer, inputs, labels)

    monkeypatch.setattr(Trainer, "step", counted)
    speed = measure_speed(CONFIGURATION, 3, tmp_path)
    assert speed.batch == (256, 1, 16, 16)
    assert speed.device == torch.device("cpu")
    assert {name: len(found) for name, found in speed.training.seconds.items()} == {
        "plain": 3,
        "attached": 3,
    }
    assert speed.inference.seconds.keys() == {"plain", "folded"}
    # Two calls before each timing, and two epochs of six batches.
    assert (steps.count(False), steps.count(True)) == (2 + 3, 2 + 3 + 2 * 6)
    assert speed.training_ratio == speed.training.ratio("attached", "plain")
    assert speed.inference_ratio == speed.inference.ratio("folded", "plain")
    # Of the order of the truth, and not of its inverse or a thousandth.
    assert 0.2 < speed.working < 5
    seconds = speed.training.median("attached")
    assert 0.2 < speed.images_per_second * seconds / 256 < 5


def test_work_is_all_of_a_step_that_trains(tmp_path):
    configuration = replace(CONFIGURATION, channels_last=True)
    images = load("digits", image_size=16)
    after = []
    for name in ("step", "work"):
        trainer = _trainer(configuration, images, build_fabric(configuration), tmp_path / name)
        inputs, labels = next(iter(trainer.batches(0)))
        if name == "step":
            trainer.module.train()
            trainer.step(inputs, labels)
        else:
            trainer.optimizer.param_groups[0]["lr"] = learning_rate(
                configuration, 0, trainer.updates_per_epoch
            )
            _work(trainer, inputs, labels)()
        after.append(trainer.network.state_dict())
    assert all(torch.equal(value, after[1][key]) for key, value in after[0].items())


def test_several_processes_are_refused(tmp_path, monkeypatch):
    """As torchrun starts them, and before they look for each other."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(
        "timestepper.speed.measurements.build_fabric", lambda _: pytest.fail("launched")
    )
    with pytest.raises(ConfigurationError, match="of 2 processes can't be timed; run it without"):
        measure_speed(CONFIGURATION, 3, tmp_path)
