"""What a training frees it gets again without the system's help."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import numpy
from timestepper.training import build, memory
from timestepper.training.configuration import Configuration

if sys.argv[1] == "training":
    build.build_fabric(Configuration(accelerator="cpu"))
faults = []
for _ in range(4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    numpy.ones(2**24)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(faults[0], faults[-1])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="nothing is set elsewhere")
@pytest.mark.parametrize("process", ["training", pytest.param("other", marks=pytest.mark.slow)])
def test_memory_is_kept(process):
    command = [sys.executable, "-c", FAULTS, process]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    first, last = map(int, printed.split())
    assert first > 16
    assert last < 16 if process == "training" else last > 16
