"""ONNX: runs in onnxruntime and what else reads it, without torch."""

from __future__ import annotations

from pathlib import Path

import torch

from timestepper.shipping.agreement import require_close
from timestepper.shipping.graph import BATCH_DIMENSION, batches, example, exporting
from timestepper.shipping.parcel import Format, Parcel

INPUT, OUTPUT = "images", "outputs"


class OnnxModel(Format):
    """An ``.onnx`` file for any batch size."""

    file_name = "folded.onnx"
    extra = ("onnx", "onnxruntime", "onnxscript")

    def write(self, parcel: Parcel, path: Path) -> None:
        """Trace, translate and write the graph."""
        with exporting(parcel):
            program = torch.onnx.export(
                parcel.network,
                (example(parcel),),
                dynamo=True,
                dynamic_shapes=({0: BATCH_DIMENSION},),
                input_names=[INPUT],
                output_names=[OUTPUT],
                verbose=False,
            )
            assert program is not None  # without a path and with dynamo there is one
            program.save(path, external_data=False)

    def verify(self, parcel: Parcel, path: Path) -> str:
        """Run the file in onnxruntime."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        worst = 0.0
        for images in batches(parcel):
            [found] = session.run([OUTPUT], {INPUT: images.numpy()})
            worst = max(
                worst,
                require_close(parcel.outputs(images), torch.from_numpy(found), "onnxruntime"),
            )
        return (
            f"onnxruntime, in batches of {len(parcel.images)} and 1: within {worst:.1e} of the "
            "largest output"
        )
