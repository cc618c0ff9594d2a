"""A state dict that torchvision's own constructor takes."""

from __future__ import annotations

import io
from pathlib import Path

import torch

from timestepper.files import write_atomically
from timestepper.shipping.agreement import require_equal
from timestepper.shipping.elsewhere import outputs_elsewhere
from timestepper.shipping.parcel import Format, Parcel

LOAD = """
from torchvision import models
network = models.{call}
network.load_state_dict(torch.load(path, weights_only=True))
network.eval()
"""


class TorchvisionWeights(Format):
    """The state dict by ``torch.save``: a dictionary of tensors and nothing else."""

    file_name = "folded.pth"
    library = "torchvision"

    def write(self, parcel: Parcel, path: Path) -> None:
        """Write the weights."""
        content = io.BytesIO()
        torch.save(dict(parcel.network.state_dict()), content)
        write_atomically(path, content.getvalue())

    def verify(self, parcel: Parcel, path: Path) -> str:
        """Load the weights with torchvision alone."""
        name = parcel.configuration.network.name.rpartition("/")[2]
        options = {"num_classes": parcel.data.num_classes, **parcel.options}
        given = ", ".join(f"{key}={value!r}" for key, value in options.items())
        call = f"get_model({name!r}, {given})"
        [found] = outputs_elsewhere(LOAD.format(call=call), path, [parcel.images])
        require_equal(parcel.outputs(parcel.images), found, f"torchvision's {call}")
        return f"loaded into torchvision's {call} without timestepper: bit-equal"
