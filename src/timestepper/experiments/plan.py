"""The trainings of an experiment, and how far each of them is."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from timestepper.errors import ConfigurationError, RunError, did_you_mean
from timestepper.experiments.study import Noise, Scale, read_methods, read_protocols
from timestepper.training.configuration import (
    Configuration,
    DataConfiguration,
    NetworkConfiguration,
    Precision,
)
from timestepper.training.recipes import overlaid, packaged_recipe, read_configuration
from timestepper.training.run import Run

State = Literal["done", "trained", "started", "new"]
"""Done, trained but not measured, started, or not begun."""


@dataclass(frozen=True)
class PlannedRun:
    """A training of an experiment.

    Attributes:
        protocol: the recipe that it follows.
        network: label of the network.
        method: name of the method.
        seed: its seed.
        configuration: all settings.
        run: its folder.
        noise: what is measured afterwards.
        bound: whether the bound of Proposition 1 is computed afterwards.
    """

    protocol: str
    network: str
    method: str
    seed: int
    configuration: Configuration
    run: Run
    noise: Noise | None
    bound: bool = False

    @property
    def name(self) -> str:
        """The folder, as it is called within the folder of all runs."""
        return f"{self.protocol}/{self.run.folder.name}"

    @property
    def log(self) -> Path:
        """Where the training's output goes."""
        return self.run.folder.with_name(f"{self.run.folder.name}.log")

    @property
    def noise_file(self) -> Path:
        """Where the measurement under noise is kept; other settings have another file."""
        settings = json.dumps(asdict(self.noise) if self.noise else None)
        digest = hashlib.sha256(settings.encode()).hexdigest()[:8]
        return self.run.noise(digest)

    @property
    def bound_file(self) -> Path:
        """Where the bound of Proposition 1 is kept."""
        return self.run.bound

    @property
    def unmeasured(self) -> list[Path]:
        """Files of measurements that are planned, and not made since the training has ended."""
        planned = [self.noise_file] * (self.noise is not None) + [self.bound_file] * self.bound
        trained = self.run.folded.stat().st_mtime if self.run.folded.exists() else 0.0
        return [f for f in planned if not f.exists() or f.stat().st_mtime < trained]

    @property
    def epochs_done(self) -> int:
        """Epochs that its metrics have."""
        if not self.run.metrics.exists():
            return 0
        return max(0, len(self.run.metrics.read_bytes().splitlines()) - 1)

    @property
    def is_trained(self) -> bool:
        """Whether its training has ended; `timestepper fold` may have folded it before."""
        return self.run.folded.exists() and self.epochs_done >= self.configuration.epochs

    @property
    def state(self) -> State:
        """How far it is."""
        if not self.run.configuration.exists():
            return "new"
        if not self.is_trained:
            return "started"
        return "trained" if self.unmeasured else "done"


def plan(
    methods: tuple[str, ...],
    scale: Scale,
    folder: Path,
    data_dir: str | None,
    download: bool = False,
    precision: Precision | None = None,
    compile: bool | None = None,
) -> list[PlannedRun]:
    """Plan the trainings of an experiment; experiments that need the same ones share them.

    Args:
        methods: names of methods.
        scale: what else is trained.
        folder: where all runs are.
        data_dir: folder with the data sets, see :class:`DataConfiguration`.
        download: fetch missing files.
        precision: in place of the protocols'.
        compile: likewise.

    Returns:
        The trainings, all methods of a seed together.

    Raises:
        ConfigurationError: a protocol or a method is unknown or impossible.
        RunError: a run in the folder was made with other settings.
    """
    known = read_methods()
    bases = {name: read_configuration(packaged_recipe(name)) for name in scale.protocols}
    if missing := [name for name in scale.protocols if name not in read_protocols()]:
        raise ConfigurationError(
            f"protocol {missing[0]} is a recipe, but has no entry in protocols.yaml; add one with "
            "its label, classes, training_images and test_images"
        )
    planned = []
    for protocol, (label, network), seed, method in itertools.product(
        scale.protocols, scale.networks.items(), range(scale.seeds), methods
    ):
        if method not in known:
            raise ConfigurationError(f"there is no method '{method}'{did_you_mean(method, known)}")
        base = bases[protocol]
        own = replace(
            base,
            seed=seed,
            network=NetworkConfiguration(network, base.network.options | scale.options),
            data=replace(base.data, data_dir=data_dir, download=download),
            precision=precision or base.precision,
            compile=base.compile if compile is None else compile,
        )
        where = f"method {method}"
        if "seed" in known[method].settings:
            raise ConfigurationError(
                f"{where} has a seed in its settings, but experiments train each method with the "
                "same seeds, 0, 1, 2 and so on; leave it out"
            )
        configuration = overlaid(own, known[method].settings, where)
        if configuration.data.validation:
            raise ConfigurationError(
                f"{where} under protocol {protocol} has data.validation "
                f"{configuration.data.validation}, but experiments compare errors of test images, "
                "which such trainings don't measure; leave it out"
            )
        run = Run(folder / protocol / f"{network.replace('/', '-')}-{method}-{seed}")
        each = PlannedRun(
            *(protocol, label, method, seed, configuration, run, scale.noise, scale.bound)
        )
        _require_same(each)
        planned.append(each)
    return planned


def _require_same(planned: PlannedRun) -> None:
    """Raise :class:`RunError` if a run exists that follows another protocol."""
    run = planned.run
    if not run.folder.exists() or run.is_empty():
        return
    found, wanted = _what_matters(run.read_configuration()), _what_matters(planned.configuration)
    if planned.is_trained:
        # What a finished run recorded besides does not matter; one that goes on can't change it.
        wanted.pop("stepping.explain")
    for key, value in wanted.items():
        if found[key] != value:
            raise RunError(
                f"{run.folder} was made with {key} {found[key]}, and the plan has {value}: its "
                "results don't belong into this experiment; move that run away, or name another "
                "folder with --runs"
            )


def _what_matters(configuration: Configuration) -> dict[str, Any]:
    """Flatten a configuration, without where its files are and what it runs on."""
    there = configuration.data
    here = DataConfiguration(
        name=there.name, image_size=there.image_size, validation=there.validation
    )
    return dict(_flat(asdict(replace(configuration, data=here, accelerator="auto"))))


def _flat(settings: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, dict) and key != "options":
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
