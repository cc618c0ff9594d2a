"""A process that can't import this package, as on the machine that a network ships to."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from timestepper.errors import ShippingError

_PROGRAM = """
import sys
sys.modules["timestepper"] = None  # from here on, importing it fails
import torch
from safetensors.torch import load_file, save_file
path, images, outputs, threads = sys.argv[1:]
torch.set_num_threads(int(threads))  # how sums are split decides how they round
{load}
with torch.no_grad():
    found = {{name: network(batch).contiguous() for name, batch in load_file(images).items()}}
save_file(found, outputs)
"""


def outputs_elsewhere(load: str, path: Path, batches: list[Tensor]) -> list[Tensor]:
    """Load a network in a process of its own, where this package is not importable, and run it.

    Args:
        load: Python that sets ``network`` to what it loads from ``path``, a string.
        path: what to load.
        batches: images, float32 ``(n, channels, height, width)``, on the CPU.

    Returns:
        The outputs for each batch, ``(n, classes)``.

    Raises:
        ShippingError: it can't be loaded or does not run.
    """
    with tempfile.TemporaryDirectory() as folder:
        images, outputs = Path(folder, "images.safetensors"), Path(folder, "outputs.safetensors")
        save_file({str(number): batch.contiguous() for number, batch in enumerate(batches)}, images)
        # -P: a user's file called torch.py is not meant.
        command = [sys.executable, "-P", "-c", _PROGRAM.format(load=load)]
        arguments = [str(path.absolute()), str(images), str(outputs), str(torch.get_num_threads())]
        done = subprocess.run(command + arguments, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["it ended without a word"])[-1]
            raise ShippingError(
                f"what was written can't be loaded without timestepper ({reason}); nothing is kept"
            )
        found = load_file(outputs)
    return [found[str(number)] for number in range(len(batches))]
