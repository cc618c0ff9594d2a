"""What an experiment trains and measures, declared in ``recipes/experiments/NAME.yaml``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from jsonargparse import ArgumentParser

from timestepper.errors import ConfigurationError
from timestepper.training.recipes import FOLDERS, MALFORMED, explain

ScaleName = Literal["smoke", "quick", "paper"]

SCALES: dict[ScaleName, str] = {
    "smoke": "seconds; shows that everything runs, and nothing else",
    "quick": "the same experiment cut down to what two cores do in at most two hours",
    "paper": "the paper's protocol",
}


@dataclass(frozen=True)
class Method:
    """One of the things that are compared.

    Args:
        label: how tables and plots call it.
        settings: in what it differs from a protocol's configuration, nested as in a recipe.
    """

    label: str
    settings: dict[str, Any]


@dataclass(frozen=True)
class Noise:
    """A measurement of trained networks under Gaussian noise on their inputs.

    Args:
        deviations: standard deviations of the noise, in those of the training images.
        draws: draws of the noise that are averaged, the same ones for all networks.
    """

    deviations: tuple[float, ...]
    draws: int


@dataclass(frozen=True)
class Scale:
    """An experiment at one scale: every network by every method under every protocol.

    Args:
        protocols: recipes, and how tables call what they train on.
        networks: how tables call a network, and its name for :func:`timestepper.networks.create`.
        seeds: number of seeds; they are 0, 1, 2 and so on.
        noise: what is measured of the trained networks beside loss and accuracy.
    """

    protocols: dict[str, str]
    networks: dict[str, str]
    seeds: int
    noise: Noise | None = None


@dataclass(frozen=True)
class Study:
    """An experiment at all its scales.

    Args:
        methods: names of :func:`read_methods`.
        smoke: see :data:`SCALES`.
        quick: see :data:`SCALES`.
        paper: see :data:`SCALES`.
    """

    methods: tuple[str, ...]
    smoke: Scale
    quick: Scale
    paper: Scale

    def at(self, scale: ScaleName) -> Scale:
        """Return what is done at a scale."""
        return {"smoke": self.smoke, "quick": self.quick, "paper": self.paper}[scale]


def _file(name: str) -> Path:
    paths = [folder / "experiments" / f"{name}.yaml" for folder in FOLDERS]
    return next(path for path in paths if path.is_file())


def read_methods() -> dict[str, Method]:
    """Read all methods, by name."""
    content = yaml.safe_load(_file("methods").read_text(encoding="utf-8"))
    return {name: Method(**entry) for name, entry in content.items()}


def read_study(name: str) -> Study:
    """Read an experiment.

    Args:
        name: one of :data:`~timestepper.experiments.TRAINED`.

    Raises:
        ConfigurationError: the file has been changed into something invalid.
    """
    path = _file(name)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Study)
    try:
        built = parser.instantiate(parser.parse_path(path))
    except MALFORMED as error:
        raise ConfigurationError(f"{path}: {explain(error, parser)}") from error
    return Study(built.methods, built.smoke, built.quick, built.paper)
