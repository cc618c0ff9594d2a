"""From a trained network to a verified file or folder."""

from __future__ import annotations

import tempfile
from pathlib import Path

from torch import nn

from timestepper.shipping.exported_program import ExportedProgram
from timestepper.shipping.onnx_model import OnnxModel
from timestepper.shipping.parcel import Format, Parcel
from timestepper.shipping.safetensors_weights import SafetensorsWeights
from timestepper.shipping.timm_folder import TimmFolder
from timestepper.shipping.torchvision_weights import TorchvisionWeights
from timestepper.stepping import load_weights
from timestepper.training.build import build_plain_network
from timestepper.training.folded import folded_copy
from timestepper.training.trained import Trained

FORMATS: dict[str, Format] = {
    "timm": TimmFolder(),
    "torchvision": TorchvisionWeights(),
    "safetensors": SafetensorsWeights(),
    "onnx": OnnxModel(),
    "export": ExportedProgram(),
}
VERIFIED_IMAGES = 250


def ship(trained: Trained, form: Format, path: Path) -> tuple[nn.Module, str]:
    """Fold a run's network, write it in a format, and verify what was written.

    The result gets its name only when it is verified: a failure leaves what was there before.

    Args:
        trained: the run's network.
        form: one of ``FORMATS``.
        path: where it goes; a file there is replaced, and in a folder the files of the same name.

    Returns:
        The plain network that was written, and what was verified, in words.

    Raises:
        ShippingError: the format doesn't fit the network, or what was written does not
            do what the network does.
        FoldError: the folded network's outputs are not the trained one's.
    """
    form.require(trained)
    parcel = pack(trained)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f"{path.name}.") as folder:
        new = Path(folder) / f"new{path.suffix}"
        form.write(parcel, new)
        verified = form.verify(parcel, new)
        if path.is_dir():
            for file in new.iterdir():
                file.replace(path / file.name)
        else:
            new.replace(path)
    count = len(parcel.images)
    return parcel.network, f"outputs bit-equal on {count} test images; {verified}"


def pack(trained: Trained) -> Parcel:
    """Fold a copy of a run's network, compare, and lay it out as a network built anew is.

    Built anew, because strides that training has left behind (channels_last) choose other
    kernels, which round otherwise than those of whoever loads the weights.
    """
    images = trained.some_images(VERIFIED_IMAGES)
    folded = folded_copy(trained.network, images)
    network = build_plain_network(trained.configuration, trained.images)
    load_weights(network, folded.state_dict())
    return Parcel(network.eval(), trained.configuration, trained.images, images.cpu())
