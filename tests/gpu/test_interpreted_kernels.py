"""The kernels for GPUs, interpreted on the CPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent.parent


@pytest.mark.parametrize(
    "program", ["controllers/interpreted_recurrence.py", "stepping/interpreted_averages.py"]
)
def test_kernels_compute_what_torch_does(program):
    pytest.importorskip("triton")
    done = subprocess.run(
        [sys.executable, TESTS / program],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "all the same\n", done.stderr
