"""ONNX: runs in onnxruntime and what else reads it, without torch."""

from __future__ import annotations

from pathlib import Path

import torch

from timestepper.shipping.agreement import require_close
from timestepper.shipping.graph import BATCH_DIMENSION, batches, example, quietly
from timestepper.shipping.parcel import Format, Parcel

INPUT, OUTPUT = "images", "outputs"


class OnnxModel(Format):
    """An ``.onnx`` file for any batch size."""

    file_name = "folded.onnx"
    extra = ("onnx", "onnxruntime", "onnxscript")

    def write(self, parcel: Parcel, path: Path) -> None:
        """Trace, translate and write the graph."""
        with quietly(f"torch can't export {parcel.configuration.network.name}"):
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
        with quietly("onnxruntime can't run the model"):
            session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
            found = [session.run([OUTPUT], {INPUT: b.numpy()})[0] for b in batches(parcel)]
        worst = max(
            require_close(parcel.outputs(images), torch.from_numpy(outputs), "onnxruntime")
            for images, outputs in zip(batches(parcel), found, strict=True)
        )
        return (
            f"onnxruntime, in batches of {len(parcel.images)} and 1: within {worst:.1e} of the "
            "largest output"
        )
