"""What a network is exposed to, and what it scores there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import ClassVar

from lightning_fabric import Fabric
from torch import Tensor, nn

from timestepper.data import DataSet
from timestepper.errors import ConfigurationError, first_line

Progress = Callable[[int, int], None]
"""Called with how many parts are done, and of how many."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a network scores under a threat model.

    Attributes:
        threat: the threat model's name.
        description: what was run, in words.
        unit: what the levels are.
        levels: of the threat, such as standard deviations or ε.
        cases: what each level was tried with, such as draws or corruptions.
        accuracy: share of images whose most likely class is right, 0 to 1, float64
            ``(cases, levels)`` on the CPU.
        loss: mean cross-entropy in nats, likewise.
    """

    threat: str
    description: str
    unit: str
    levels: tuple[float, ...]
    cases: tuple[str, ...]
    accuracy: Tensor
    loss: Tensor


class ThreatModel(ABC):
    """What a network is exposed to: a small record that says exactly what is run."""

    name: ClassVar[str]
    unit: ClassVar[str]

    @abstractmethod
    def describe(self, images: DataSet) -> str:
        """Say exactly what :meth:`evaluate` runs on a data set, in a sentence or two."""

    @abstractmethod
    def require(self, images: DataSet) -> None:
        """Raise :class:`ConfigurationError` if a data set or the installation doesn't fit."""

    @abstractmethod
    def evaluate(
        self,
        network: nn.Module,
        images: DataSet,
        fabric: Fabric,
        progress: Progress | None = None,
    ) -> Outcome:
        """Measure a network under this threat.

        Everything random is a function of the threat's seed, and the global generators are as
        they were afterwards.

        Args:
            network: with step sizes, folded or plain, on the device of ``fabric``; it is the same
                afterwards.
            images: the data set.
            fabric: device, precision and processes.
            progress: hears how far it is.

        Returns:
            The scores, with what was run.

        Raises:
            ConfigurationError: the images don't fit the threat, or a package is missing.
        """


def load_extra(module: str, what: str) -> ModuleType:
    """Import a module of the extra ``timestepper[robustness]``.

    Args:
        module: its name.
        what: what needs it.

    Raises:
        ConfigurationError: it can't be imported.
    """
    try:
        return import_module(module)
    except ImportError as error:
        reason = first_line(error)
        raise ConfigurationError(
            f"{what} can't run: {reason}; install the extra with: "
            "pip install 'timestepper[robustness]'"
        ) from error


def check_limit(limit: int | None) -> None:
    """Raise :class:`ConfigurationError` where a limit leaves no image."""
    if limit is not None:
        at_least_one("limit", limit)


def check_seed(seed: int) -> None:
    """Raise :class:`ConfigurationError` where a seed is none."""
    if not 0 <= seed < 2**63:
        raise ConfigurationError(f"seed is {seed}; it must be from 0 to 2^63 - 1")


def at_least_one(name: str, number: int) -> None:
    """Raise :class:`ConfigurationError` where a count is less than 1."""
    if number < 1:
        raise ConfigurationError(f"{name} is {number}; it must be at least 1")
