"""Training with a penalty for stability."""

import csv
from pathlib import Path

import pytest
import torch
from trainings import start

from timestepper.errors import StabilityError
from timestepper.stability import unroll
from timestepper.stability.lipschitz import Lipschitz
from timestepper.training.configuration import (
    NetworkConfiguration,
    StabilityConfiguration,
    SteppingConfiguration,
)
from timestepper.training.run import Run
from timestepper.training.trained import load_trained


@pytest.fixture(autouse=True)
def _one_thread():
    """Operations as small as these wait for a second thread longer than they take."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def log_bound(folder):
    """Bound the growth from the first state to the last by Lanczos iterations, as a logarithm."""
    network = load_trained(Run(Path(folder))).network.eval()
    image = torch.zeros(1, 1, 8, 8)
    unrolled = unroll(network, image)
    lipschitz = Lipschitz(unrolled, unrolled.evaluate(image))
    return lipschitz.log_constant(unrolled.input_state, unrolled.final_state).item()


def metrics(folder):
    with (Path(folder) / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("controller", ["lstm", "none"])
@pytest.mark.parametrize(("penalty", "strength"), [("bound", 1.0), ("spectral", 0.3)])
def test_the_penalty_lowers_the_bound(penalty, strength, controller):
    stepping = SteppingConfiguration(controller)
    start("without", stepping=stepping)
    start("with", stepping=stepping, stability=StabilityConfiguration(penalty, strength))
    assert log_bound("with") < 0.8 * log_bound("without")
    without, penalised = metrics("without"), metrics("with")
    assert "penalty" not in without[0]
    assert float(penalised[1]["penalty"]) > 0
    # The classification loss alone.
    assert float(penalised[1]["train_loss"]) < 2
    assert float(penalised[1]["test_accuracy"]) > 0.5


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"compile": True}, marks=pytest.mark.slow),
        {"precision": "bf16-mixed"},
        {"channels_last": True},
        {"ema_decay": 0.9},
    ],
    ids=lambda settings: "-".join(settings),
)
def test_options_take_a_penalty(settings):
    stability = StabilityConfiguration("bound", 0.01)
    start("usual", stability=stability, epochs=1)
    start("other", stability=stability, epochs=1, **settings)
    usual, other = metrics("usual")[0], metrics("other")[0]
    assert float(other["penalty"]) == pytest.approx(float(usual["penalty"]), rel=0.02)


def test_a_branch_without_a_bound_is_refused_before_anything_is_written():
    network = NetworkConfiguration("timm/legacy_seresnet18")
    with pytest.raises(StabilityError, match=r"se_module.* has no Lipschitz constant"):
        start("run", network=network, stability=StabilityConfiguration("bound", 0.01))
    assert not Path("run").exists()
