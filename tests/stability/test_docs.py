"""The code of the pages on stability runs."""

import re
from pathlib import Path

import pytest
import torch

DOCS = Path(__file__).parents[2] / "docs"


def run(page):
    text = (DOCS / page).read_text(encoding="utf-8")
    names = {}
    torch.set_default_dtype(torch.float32)
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(compile(block, page, "exec"), names)
    return names


def test_stability():
    names = run("stability.md")
    assert names["measured"].worst < 10 ** names["measured"].bound
    assert len(names["flow"].norms) == len(names["ways"].states) == 10
    assert abs(names["euler"].states).max() > 1
    assert abs(names["rkf"].states).max() == pytest.approx(1)


def test_training_for_stability():
    names = run("training-for-stability.md")
    gradients = [p.grad for p in names["network"].time_stepping.parameters()]
    assert all(gradient is not None for gradient in gradients)
    assert names["penalty"]().item() > 0
