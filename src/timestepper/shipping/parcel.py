"""What is shipped, and what a format is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from timestepper.data import DataSet
from timestepper.errors import ShippingError
from timestepper.training.configuration import Configuration
from timestepper.training.trained import Trained


@dataclass(frozen=True)
class Parcel:
    """A folded network and what its receiver should know about it.

    Attributes:
        network: plain, in eval mode, float32, on the CPU.
        configuration: how it was trained.
        data: on what.
        images: the test images that formats are verified on, float32
            ``(n, channels, height, width)``, normalised, on the CPU.
    """

    network: nn.Module
    configuration: Configuration
    data: DataSet
    images: Tensor

    @property
    def options(self) -> dict[str, object]:
        """The network's own options: neither classes nor input channels."""
        given = self.configuration.network.options.items()
        return {key: value for key, value in given if key not in ("num_classes", "in_channels")}

    @torch.no_grad()
    def outputs(self, images: Tensor) -> Tensor:
        """Return the network's outputs, float32 ``(n, classes)``."""
        outputs: Tensor = self.network(images)
        return outputs


class Format(ABC):
    """A form in which networks ship.

    Attributes:
        file_name: what the result is called in a run's folder.
        is_folder: whether the result is a folder of files.
        library: the package whose networks alone it holds, or None for all networks.
        extra: packages of the extra ``timestepper[export]`` that it takes.
    """

    file_name: ClassVar[str]
    is_folder: ClassVar[bool] = False
    library: ClassVar[str | None] = None
    extra: ClassVar[tuple[str, ...]] = ()

    def require(self, trained: Trained) -> None:
        """Raise :class:`ShippingError` if the network or the installation doesn't fit."""
        own = type(trained.network).__module__.partition(".")[0]
        if self.library not in (None, own):
            fitting = [own] if own in ("timm", "torchvision") else []
            raise ShippingError(
                f"{trained.configuration.network.name} is not a network of {self.library}'s; ship "
                f"it with --to {', '.join([*fitting, 'safetensors', 'onnx'])} or export"
            )
        missing = [package for package in self.extra if find_spec(package) is None]
        if missing:
            raise ShippingError(
                f"this format needs {' and '.join(missing)}; install the extra with: "
                'pip install "timestepper[export]"'
            )

    @abstractmethod
    def write(self, parcel: Parcel, path: Path) -> None:
        """Write the network to a path where nothing is yet."""

    @abstractmethod
    def verify(self, parcel: Parcel, path: Path) -> str:
        """Load what was written as its receiver will, and compare outputs.

        Returns:
            What was found, as the end of a sentence.

        Raises:
            ShippingError: it can't be loaded, or its outputs are not the network's.
        """
