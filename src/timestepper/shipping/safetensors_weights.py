"""A file of safetensors: weights for the plain network, whoever builds it."""

from __future__ import annotations

from pathlib import Path

import torch

from timestepper.shipping.agreement import require_equal
from timestepper.shipping.parcel import Format, Parcel
from timestepper.training.folded import load_plain, write_weights


class SafetensorsWeights(Format):
    """The state dict as safetensors."""

    file_name = "folded.safetensors"

    def write(self, parcel: Parcel, path: Path) -> None:
        """Write the weights."""
        write_weights(parcel.network, path)

    def verify(self, parcel: Parcel, path: Path) -> str:
        """Load the weights into a network built anew."""
        plain = load_plain(parcel.configuration, parcel.data, path)
        with torch.no_grad():
            found = plain(parcel.images)
        require_equal(parcel.outputs(parcel.images), found, "the plain network with these weights")
        return "loaded into the plain network: bit-equal"
