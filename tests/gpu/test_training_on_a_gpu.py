"""A training on a GPU."""

from dataclasses import replace

import pytest
import torch
from rich.console import Console
from trainings import TINY, UPDATES, interrupt, start

from timestepper import data
from timestepper.training.build import build_fabric
from timestepper.training.configuration import NetworkConfiguration
from timestepper.training.looks import Look
from timestepper.training.loop import train_side_by_side
from timestepper.training.run import Run, Training
from timestepper.training.trainer import Trainer
from timestepper.training.turns import Turns

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
ON_GPU = {"accelerator": "cuda"}
CAPTURED = {"compile": True}
BFLOAT16 = {"precision": "bf16-mixed", "channels_last": True, "compile": True}


def losses(folder):
    return [row["train_loss"] for row in Run(folder).read_metrics()]


@pytest.mark.parametrize("changes", [{}, CAPTURED, BFLOAT16], ids=["plain", "captured", "bfloat16"])
def test_learns_as_on_the_cpu(tmp_path, changes):
    start(tmp_path / "cpu")
    start(tmp_path / "gpu", **ON_GPU, **changes)
    tolerance = 0.05 if changes else 0.01
    assert losses(tmp_path / "gpu") == pytest.approx(losses(tmp_path / "cpu"), rel=tolerance)


def trainer(folder, **changes):
    configuration = replace(TINY, **{**ON_GPU, **changes})
    fabric = build_fabric(configuration)
    made = Trainer(Run(folder), configuration, data.load("digits"), fabric)
    made.module.train()
    return made


def test_captured_steps_are_steps(tmp_path, monkeypatch):
    """In float32 on the same images; each epoch's last, smaller batch is among them."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    found = {}
    for name, changes in (("eager", {}), ("captured", CAPTURED)):
        made = trainer(tmp_path / name, **changes)
        values = []
        for _ in range(2):
            for inputs, labels in made.batches(0):
                values.append(made.step(inputs, labels).item())
                made.batch += 1
            scores = made.meter.compute()
            made.meter.clear()
            values += [scores.loss, scores.accuracy]
            made.epoch, made.batch = made.epoch + 1, 0
        found[name] = values
    assert made.captured is not None
    assert made.captured._graph is not None
    assert len(found["eager"]) == 2 * (UPDATES + 2)
    assert found["captured"][:10] == pytest.approx(found["eager"][:10], rel=1e-3)
    assert found["captured"] == pytest.approx(found["eager"], rel=0.1)


@pytest.mark.parametrize("changes", [{}, BFLOAT16], ids=["plain", "captured"])
def test_the_host_waits_for_no_step(tmp_path, changes):
    made = trainer(tmp_path, **changes)
    kept = []
    try:
        for inputs, labels in made.batches(0):
            kept.append(made.step(inputs, labels))
            made.batch += 1
            if made.batch == 6:
                torch.cuda.set_sync_debug_mode("error")
            if made.batch == 12:
                Look(made.batch, 1.0, kept, made.meter, made.guard)
                break
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(kept) == 12


def test_goes_on_where_it_stopped(tmp_path, monkeypatch):
    settings = {**ON_GPU, **CAPTURED}
    start(tmp_path / "whole", **settings)
    interrupt(tmp_path / "half", monkeypatch, 10, **settings)
    start(tmp_path / "half", resume=True)
    assert losses(tmp_path / "half") == pytest.approx(losses(tmp_path / "whole"), rel=0.05)


DROPPING = {"network": NetworkConfiguration("timm/test_resnet", {"drop_path_rate": 0.5})}


@pytest.mark.parametrize(
    "changes", [{}, CAPTURED, CAPTURED | DROPPING], ids=["plain", "captured", "drop-path"]
)
def test_side_by_side_each_is_what_it_is_alone(tmp_path, changes):
    """Both read their random numbers while the other's graph may run."""
    configuration = replace(TINY, **ON_GPU, **changes)
    trainings = [
        Training(Run(tmp_path / f"seed{seed}"), replace(configuration, seed=seed), resume=False)
        for seed in (3, 4)
    ]
    train_side_by_side(trainings, console=Console(quiet=True))
    for seed in (3, 4):
        start(tmp_path / f"alone{seed}", seed=seed, **ON_GPU, **changes)
        alone = losses(tmp_path / f"alone{seed}")
        assert losses(tmp_path / f"seed{seed}") == pytest.approx(alone, rel=0.02)


def test_streams_and_random_numbers_of_their_own():
    device = torch.device("cuda", torch.cuda.current_device())
    outside = torch.cuda.current_stream()
    before = torch.cuda.get_rng_state()
    drawn, streams = [], []
    for own in (Turns(device), Turns(device)):
        with own.turn():
            torch.manual_seed(5)
            torch.rand(3, device=device)
        with own.turn():
            drawn.append(torch.rand(3, device=device))
            streams.append(torch.cuda.current_stream())
        own.wait()
    assert torch.equal(*drawn)
    assert len({outside, *streams}) == 3
    assert torch.cuda.current_stream() == outside
    assert torch.equal(torch.cuda.get_rng_state(), before)
