"""Precisions that the machine is slow in."""

import pytest
import torch

from timestepper.training import build
from timestepper.training.configuration import Configuration


@pytest.mark.parametrize(
    ("precision", "supported", "warnings"),
    [("bf16-mixed", False, 1), ("bf16-mixed", True, 0), ("32-true", False, 0)],
)
def test_imitated_bfloat16_is_said_once(precision, supported, warnings, monkeypatch, caplog):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: supported)
    build._warn_of_slow_bfloat16.cache_clear()
    configuration = Configuration(precision=precision, accelerator="cpu")
    for _ in range(2):
        build.build_fabric(configuration)
    said = [r.message for r in caplog.records if r.name == build.__name__]
    assert len(said) == warnings
    assert all("no instructions for precision bf16-mixed" in message for message in said)
    build._warn_of_slow_bfloat16.cache_clear()
