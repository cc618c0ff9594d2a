"""What an experiment trains and measures, declared in ``recipes/experiments/NAME.yaml``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from jsonargparse import ArgumentParser

from timestepper.errors import ConfigurationError
from timestepper.robustness.noise import GaussianNoise
from timestepper.training.recipes import FOLDERS, MALFORMED, explain

Record = TypeVar("Record")

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
class Protocol:
    """How networks are trained, by the recipe of the same name.

    Args:
        label: how tables call it.
        classes: of its images.
        training_images: number of them.
        test_images: number of them.
    """

    label: str
    classes: int
    training_images: int
    test_images: int


@dataclass(frozen=True)
class Noise:
    """A measurement of trained networks under Gaussian noise on their inputs.

    Args:
        deviations: standard deviations of the noise, in those of the training images.
        draws: draws of the noise that are averaged, the same ones for all networks.
    """

    deviations: tuple[float, ...]
    draws: int

    def __post_init__(self) -> None:
        GaussianNoise(self.deviations, self.draws)


@dataclass(frozen=True)
class Scale:
    """An experiment at one scale: every network by every method under every protocol.

    Args:
        protocols: names of :func:`read_protocols`.
        networks: how tables call a network, and its name for :func:`timestepper.networks.create`.
        seeds: number of seeds; they are 0, 1, 2 and so on.
        noise: what is measured of the trained networks beside loss and accuracy.
        bound: whether the bound of Proposition 1 is computed for them, too.
        options: of all its networks, see :func:`timestepper.networks.create`.
    """

    protocols: tuple[str, ...]
    networks: dict[str, str]
    seeds: int
    noise: Noise | None = None
    bound: bool = False
    options: dict[str, Any] = field(default_factory=dict)


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
    for path in paths:
        if path.is_file():
            return path
    raise ConfigurationError(
        f"there is no file {paths[-1]}, which says what is trained; write it like those beside it"
    )


def _read(record: type[Record], name: str) -> dict[str, Record]:
    """Read a file of records by name."""
    path = _file(name)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--all", type=dict[str, record])  # type: ignore[valid-type]
    try:
        content = {"all": yaml.safe_load(path.read_text(encoding="utf-8"))}
        records: dict[str, Record] = parser.instantiate(parser.parse_object(content)).all
    except (*MALFORMED, yaml.YAMLError) as error:
        raise ConfigurationError(f"{path}: {explain(error, parser)}") from error
    return records


def read_methods() -> dict[str, Method]:
    """Read all methods, by name.

    Raises:
        ConfigurationError: the file has been changed into something invalid.
    """
    return _read(Method, "methods")


def read_protocols() -> dict[str, Protocol]:
    """Read all protocols, by name.

    Raises:
        ConfigurationError: the file has been changed into something invalid.
    """
    return _read(Protocol, "protocols")


def read_study(name: str) -> Study:
    """Read an experiment.

    Args:
        name: one of :data:`~timestepper.experiments.TRAINED`.

    Raises:
        ConfigurationError: the file is missing, or has been changed into something invalid.
    """
    path = _file(name)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Study)
    try:
        built = parser.instantiate(parser.parse_path(path))
    except MALFORMED as error:
        raise ConfigurationError(f"{path}: {explain(error, parser)}") from error
    return Study(built.methods, built.smoke, built.quick, built.paper)
