"""A folder as timm writes it, which ``timm.create_model("local-dir:...")`` loads alone."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import cast

from safetensors import SafetensorError

from timestepper.data.file_split import FileSplit
from timestepper.errors import ShippingError, first_line
from timestepper.networks import split_version
from timestepper.shipping.agreement import require_equal
from timestepper.shipping.elsewhere import outputs_elsewhere
from timestepper.shipping.parcel import Format, Parcel
from timestepper.training.folded import shared_weights
from timestepper.training.trained import Trained

LOAD = """
import timm
network = timm.create_model("local-dir:" + path, pretrained=True).eval()
"""
OF_TIMMS_WEIGHTS = (
    "test_input_size",
    "test_crop_pct",
    "license",
    "origin_url",
    "description",
    "notes",
)
"""What timm says of the weights that it has for an architecture: not true of these."""


class TimmFolder(Format):
    """``model.safetensors`` and ``config.json``."""

    file_name = "folded_timm"
    is_folder = True
    library = "timm"

    def require(self, trained: Trained) -> None:
        """Refuse shared weights, and original bottlenecks: small images may not tell them."""
        super().require(trained)
        name = trained.configuration.network.name
        if split_version(name)[1] == "v1":
            raise ShippingError(
                f"timm builds no {name}, only today's form of it, with the strides elsewhere; "
                "ship it with --to safetensors, onnx or export"
            )
        if shared := shared_weights(trained.network):
            raise ShippingError(
                f"timm writes no network whose layers share weights ({shared[0]} and {shared[1]} "
                "are one); ship it with --to safetensors, onnx or export"
            )

    def write(self, parcel: Parcel, path: Path) -> None:
        """Have timm write the folder."""
        from timm.models import save_for_hf

        data = parcel.data
        preprocessing = {
            "input_size": (data.channels, *data.image_size),
            "mean": data.mean,
            "std": data.std,
            # As the test images were cut: see data/images.py.
            "crop_pct": 224 / 256 if isinstance(data.test, FileSplit) else 1.0,
            "crop_mode": "center",
            "interpolation": "bilinear",
        }
        known = cast(dict[str, object], parcel.network.pretrained_cfg)
        theirs = {key: None for key in OF_TIMMS_WEIGHTS if known.get(key)}
        try:
            save_for_hf(
                parcel.network,
                str(path),
                model_config={
                    "label_names": list(data.classes),
                    "pretrained_cfg": {**theirs, "tag": "", **preprocessing},
                },
                model_args={"in_chans": data.channels, **parcel.options},
                safe_serialization=True,
            )
        except (ValueError, RuntimeError, SafetensorError) as error:
            raise ShippingError(f"timm can't write this network: {first_line(error)}") from error
        # safetensors leaves its file readable to its owner alone.
        shutil.copymode(path / "config.json", path / "model.safetensors")

    def verify(self, parcel: Parcel, path: Path) -> str:
        """Load the folder with timm alone."""
        [found] = outputs_elsewhere(LOAD, path, [parcel.images])
        require_equal(
            parcel.outputs(parcel.images),
            found,
            f"timm can't rebuild {parcel.configuration.network.name}: what it builds by name",
        )
        return 'timm.create_model("local-dir:...", pretrained=True) without timestepper: bit-equal'
