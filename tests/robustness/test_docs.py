"""The code of the page on robustness runs."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "robustness.md"


def test_robustness():
    pytest.importorskip("art.attacks.evasion", exc_type=ImportError)
    names = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        exec(compile(block, PAGE.name, "exec"), names)
    assert names["curve"].loss.shape == (2, 3)
    assert names["outcome"].threat == "pgd"
    assert names["outcome"].loss[0, 1] > names["outcome"].loss[0, 0]
    assert names["pixels"].shape == (20, 1, 8, 8)
    assert len(names["attacked"].test) == len(names["images"].test)
