"""The kernel that averages a stage's weights on a GPU, interpreted on the CPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


def test_kernel_computes_what_torch_does():
    pytest.importorskip("triton")
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("interpreted_averages.py"))],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "all the same\n", done.stderr
