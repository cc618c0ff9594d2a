"""The kernels for GPUs, interpreted on the CPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


def test_kernels_compute_what_torch_does():
    pytest.importorskip("triton")
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("interpreted_kernels.py"))],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "all the same\n", done.stderr
