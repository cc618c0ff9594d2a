"""What a training is: nested records, each of which refuses impossible values.

Command line and recipes are both derived from these records, so a new setting is one new
attribute here.
"""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from timestepper.controllers import get_factory
from timestepper.errors import ConfigurationError

Precision = Literal["32-true", "bf16-mixed"]
"""float32, or float32 weights with bfloat16 products."""


def _require(condition: bool, setting: str, value: object, demand: str) -> None:
    if not condition:
        raise ConfigurationError(f"{setting} is {value}; it must be {demand}")


@dataclass(frozen=True)
class NetworkConfiguration:
    """Which network is trained.

    Args:
        name: cifar_resnet20 (any depth 6n + 2), cifar_densenet40_k12, cifar_densenetbc100_k12,
            cliquenet_k36_t12 (any sizes), or the name of a timm or torchvision network;
            timm/NAME and torchvision/NAME say which library.
        options: settings of the network's own, such as {drop_path_rate: 0.1}. Classes and input
            channels come from the data.
    """

    name: str = "cifar_resnet20"
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SteppingConfiguration:
    """What sets the step sizes.

    Args:
        controller: lstm (the paper's), lstm+, lstm-standardised, 2fc, indp, a number for a fixed
            step size, or none for the plain network.
        reduction: r, the controllers are C/r wide; by default 4, for bottlenecks 8.
        explain: record at the start and after each epoch what the step sizes depend on.
    """

    controller: str | float = "lstm"
    reduction: int | None = None
    explain: bool = False

    def __post_init__(self) -> None:
        if self.controller != "none":
            get_factory(self.controller)
            # A command line gives a number as text; equal settings must be equal.
            with suppress(ValueError):
                object.__setattr__(self, "controller", float(self.controller))
        if self.reduction is not None:
            _require(self.reduction >= 1, "stepping.reduction", self.reduction, "at least 1")
        _require(
            not self.explain or (isinstance(self.controller, str) and self.controller != "none"),
            "stepping.explain",
            "true",
            f"false with stepping.controller {self.controller}, which leaves nothing to explain",
        )


@dataclass(frozen=True)
class DataConfiguration:
    """Which images it is trained on.

    Args:
        name: digits, fashion-mnist, cifar10, cifar100, imagefolder or imagenet.
        data_dir: folder with the files; by default $TIMESTEPPER_DATA and the usual places.
        cache_dir: folder for decoded images; by default the user's cache folder.
        download: fetch missing files.
        image_size: side of the squares that images are resized to; above 64, folders of images are
            treated as ImageNet is.
        workers: processes that read image files.
        validation: so many training images are held out, the same ones for every seed, and each
            epoch is evaluated on them instead of the test images.
    """

    name: str = "digits"
    data_dir: str | None = None
    cache_dir: str | None = None
    download: bool = False
    image_size: int | None = None
    workers: int = 2
    validation: int = 0

    def __post_init__(self) -> None:
        _require(self.validation >= 0, "data.validation", self.validation, "0 or greater")


@dataclass(frozen=True)
class OptimizerConfiguration:
    """SGD with momentum.

    Args:
        lr: learning rate before the schedule.
        momentum: momentum.
        nesterov: Nesterov's momentum.
        weight_decay: weight decay, on every parameter.
        skip_not_finite: leave out steps whose gradients are not finite, and count them in the
            metrics, instead of stopping.
    """

    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 1e-4
    skip_not_finite: bool = False

    def __post_init__(self) -> None:
        _require(0 < self.lr < math.inf, "optimizer.lr", self.lr, "greater than 0 and finite")
        _require(0 <= self.momentum < 1, "optimizer.momentum", self.momentum, "in [0, 1)")
        _require(
            self.momentum > 0 or not self.nesterov,
            "optimizer.momentum",
            self.momentum,
            "greater than 0 with Nesterov's momentum (or set optimizer.nesterov to false)",
        )
        _require(
            0 <= self.weight_decay < math.inf,
            "optimizer.weight_decay",
            self.weight_decay,
            "0 or greater and finite",
        )


@dataclass(frozen=True)
class ScheduleConfiguration:
    """How the learning rate changes.

    Args:
        name: step (divide at milestones, as the paper does) or cosine.
        milestones: fractions of the training at which step divides the learning rate.
        gamma: factor at each milestone.
        warmup_epochs: epochs in which the learning rate rises linearly from zero.
    """

    name: Literal["step", "cosine"] = "cosine"
    milestones: tuple[float, ...] = (0.5, 0.75)
    gamma: float = 0.1
    warmup_epochs: int = 0

    def __post_init__(self) -> None:
        increasing = list(self.milestones) == sorted(set(self.milestones))
        _require(
            increasing and all(0 < m < 1 for m in self.milestones),
            "schedule.milestones",
            list(self.milestones),
            "increasing fractions of the training, between 0 and 1",
        )
        _require(0 < self.gamma <= 1, "schedule.gamma", self.gamma, "in (0, 1]")
        _require(self.warmup_epochs >= 0, "schedule.warmup_epochs", self.warmup_epochs, ">= 0")


@dataclass(frozen=True)
class StabilityConfiguration:
    """What is added to the loss so that perturbations grow less.

    Args:
        penalty: bound (logarithm of Eq. 7 over the branches), spectral (half the sum of the
            branches' squared spectral norms, without step sizes) or none.
        strength: factor of the penalty.
    """

    penalty: Literal["none", "bound", "spectral"] = "none"
    strength: float = 0.0

    def __post_init__(self) -> None:
        if self.penalty == "none":
            demand = "0 without a penalty (or set stability.penalty to bound or spectral)"
            _require(self.strength == 0, "stability.strength", self.strength, demand)
        else:
            _require(
                0 < self.strength < math.inf,
                "stability.strength",
                self.strength,
                "greater than 0 and finite with a penalty",
            )


@dataclass(frozen=True)
class Configuration:
    """A training.

    Args:
        network: the network.
        stepping: its step sizes.
        data: the images.
        optimizer: the optimizer.
        schedule: its learning rate.
        stability: what is added to the loss.
        epochs: passes over the training images.
        batch_size: images of one optimizer step, over all processes.
        seed: of weights, order and augmentation.
        precision: float32, or float32 weights with bfloat16 products.
        channels_last: memory format of the convolutions.
        compile: run through torch.compile, on a GPU with CUDA graphs.
        deterministic: use only kernels that give the same bits each time; on a GPU they are slower
            than others, on one CPU all do.
        sync_batch_norm: of several processes, use the statistics of all of them in batch norms.
        ema_decay: decay of an exponential moving average of the weights, which is then what is
            evaluated and folded; by default there is none.
        accelerator: where it runs.
    """

    network: NetworkConfiguration = field(default_factory=NetworkConfiguration)
    stepping: SteppingConfiguration = field(default_factory=SteppingConfiguration)
    data: DataConfiguration = field(default_factory=DataConfiguration)
    optimizer: OptimizerConfiguration = field(default_factory=OptimizerConfiguration)
    schedule: ScheduleConfiguration = field(default_factory=ScheduleConfiguration)
    stability: StabilityConfiguration = field(default_factory=StabilityConfiguration)
    epochs: int = 30
    batch_size: int = 64
    seed: int = 0
    precision: Precision = "32-true"
    channels_last: bool = False
    compile: bool = False
    deterministic: bool = False
    sync_batch_norm: bool = False
    ema_decay: float | None = None
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"

    def __post_init__(self) -> None:
        _require(self.epochs >= 1, "epochs", self.epochs, "at least 1")
        _require(self.batch_size >= 1, "batch_size", self.batch_size, "at least 1")
        _require(0 <= self.seed < 2**63, "seed", self.seed, "from 0 to 2^63 - 1")
        _require(
            self.schedule.warmup_epochs < self.epochs,
            "schedule.warmup_epochs",
            self.schedule.warmup_epochs,
            f"less than epochs ({self.epochs})",
        )
        if self.ema_decay is not None:
            _require(0 < self.ema_decay < 1, "ema_decay", self.ema_decay, "between 0 and 1")
