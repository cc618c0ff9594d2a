"""The closed form of the learning rate against torch's schedulers, which have a state."""

from dataclasses import replace

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, MultiStepLR, SequentialLR

from timestepper.training.configuration import (
    Configuration,
    OptimizerConfiguration,
    ScheduleConfiguration,
)
from timestepper.training.schedule import learning_rate

UPDATES = 7


def of_torch(make_scheduler, total, lr):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    scheduler = make_scheduler(optimizer)
    rates = []
    for _ in range(total):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def ours(epochs=12, lr=0.3, **schedule):
    configuration = replace(
        Configuration(),
        epochs=epochs,
        optimizer=OptimizerConfiguration(lr=lr),
        schedule=ScheduleConfiguration(**schedule),
    )
    return [learning_rate(configuration, update, UPDATES) for update in range(epochs * UPDATES)]


def test_step_is_torchs_multistep():
    expected = of_torch(lambda o: MultiStepLR(o, [42, 63], 0.1), 84, 0.3)
    assert ours(name="step") == pytest.approx(expected, rel=1e-12)


def test_cosine_is_torchs_cosine_annealing():
    expected = of_torch(lambda o: CosineAnnealingLR(o, 84), 84, 0.3)
    assert ours(name="cosine") == pytest.approx(expected, rel=1e-9)


def test_warm_up_is_torchs_linear_and_then_cosine_over_the_rest():
    def scheduler(optimizer):
        rise = LinearLR(optimizer, 1 / 14, 1, total_iters=13)
        return SequentialLR(optimizer, [rise, CosineAnnealingLR(optimizer, 70)], [14])

    expected = of_torch(scheduler, 84, 0.3)
    assert ours(name="cosine", warmup_epochs=2) == pytest.approx(expected, rel=1e-9)


def test_imagenet_divides_every_thirty_epochs():
    rates = ours(epochs=100, lr=0.1, name="step", milestones=(0.3, 0.6, 0.9))
    by_epoch = rates[::UPDATES]
    assert by_epoch[29] == 0.1
    assert by_epoch[30] == pytest.approx(0.01)
    assert by_epoch[59] == pytest.approx(0.01)
    assert by_epoch[60] == pytest.approx(0.001)
    assert by_epoch[90] == pytest.approx(0.0001)
