"""A training on a GPU."""

import pytest
import torch
from trainings import start

from timestepper.training.run import Run

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
ON_GPU = {"accelerator": "cuda"}


def losses(folder):
    return [row["train_loss"] for row in Run(folder).read_metrics()]


@pytest.mark.parametrize(
    "changes",
    [{}, {"compile": True}, {"precision": "bf16-mixed", "channels_last": True, "compile": True}],
    ids=["plainly", "compiled", "bfloat16"],
)
def test_learns_as_on_the_cpu(tmp_path, changes):
    start(tmp_path / "cpu")
    start(tmp_path / "gpu", **ON_GPU, **changes)
    assert losses(tmp_path / "gpu") == pytest.approx(losses(tmp_path / "cpu"), rel=0.05)
