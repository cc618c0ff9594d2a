"""torch.export's program: runs wherever torch is, without the network's code."""

from __future__ import annotations

import io
from pathlib import Path

import torch

from timestepper.files import write_atomically
from timestepper.shipping.agreement import require_close
from timestepper.shipping.elsewhere import outputs_elsewhere
from timestepper.shipping.graph import BATCH_DIMENSION, batches, example, quietly
from timestepper.shipping.parcel import Format, Parcel

LOAD = """
network = torch.export.load(path).module()
"""


class ExportedProgram(Format):
    """A ``.pt2`` file for any batch size."""

    file_name = "folded.pt2"

    def write(self, parcel: Parcel, path: Path) -> None:
        """Trace and write the program."""
        content = io.BytesIO()
        with quietly(f"torch can't export {parcel.configuration.network.name}"):
            program = torch.export.export(
                parcel.network,
                (example(parcel),),
                dynamic_shapes=({0: torch.export.Dim(BATCH_DIMENSION)},),
            )
            # torch ends the process where it can't write to a file itself.
            torch.export.save(program, content)
        write_atomically(path, content.getbuffer())

    def verify(self, parcel: Parcel, path: Path) -> str:
        """Load the program with torch alone."""
        sizes = batches(parcel)
        worst = max(
            require_close(parcel.outputs(images), outputs, "the exported program")
            for images, outputs in zip(sizes, outputs_elsewhere(LOAD, path, sizes), strict=True)
        )
        agreement = f"within {worst:.1e} of the largest output" if worst else "bit-equal"
        return (
            f"torch.export.load without timestepper, in batches of {len(parcel.images)} and 1: "
            f"{agreement}"
        )
