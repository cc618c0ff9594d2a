"""Adversarial attacks that know the network, bounded in the maximum norm."""

from __future__ import annotations

import copy
from abc import abstractmethod
from dataclasses import dataclass
from types import ModuleType
from typing import Any, cast

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from timestepper.data import DataSet
from timestepper.data.order import ATTACK
from timestepper.errors import ConfigurationError
from timestepper.robustness.images import (
    describe_test_images,
    read_test_images,
    some_test_images,
    with_test_images,
)
from timestepper.robustness.randomness import seeded
from timestepper.robustness.threat import (
    Outcome,
    Progress,
    ThreatModel,
    at_least_one,
    check_limit,
    check_seed,
    load_extra,
)
from timestepper.stepping import fold
from timestepper.training.evaluation import EVALUATION_BATCH, evaluate

SQUARE = 0.8
"""Share of the image that the first square of Square Attack covers."""


@dataclass(frozen=True)
class Attack(ThreatModel):
    """Images changed by up to ε in every pixel and channel so that the network errs.

    The attack sees the network itself, in eval mode and in float32 (bfloat16 would round small ε
    away), with its step sizes folded in (which changes no output), and the true labels. Pixels go
    from 0 to 1, as does ε, and changed images stay between. Run through the
    adversarial-robustness-toolbox.

    Attributes:
        eps: the largest changes ε, where white is 1.
        seed: seed of what is random.
        limit: use so many of the test images, evenly spaced; None uses all.
    """

    eps: tuple[float, ...] = (8 / 255,)
    seed: int = 0
    limit: int | None = 200

    unit = "ε"

    def __post_init__(self) -> None:
        if not self.eps:
            raise ConfigurationError("there is no eps; give at least one")
        for eps in self.eps:
            if not 0 <= eps <= 1:
                raise ConfigurationError(
                    f"eps is {eps:g}; it must be from 0 to 1, where white is 1 (such as 8/255)"
                )
        check_seed(self.seed)
        check_limit(self.limit)

    def describe(self, images: DataSet) -> str:
        """Say what is run; see :meth:`ThreatModel.describe`."""
        return (
            f"{self._method(images)} in the L∞ ball of radius ε = "
            f"{', '.join(_fraction(eps) for eps in self.eps)} around "
            f"{describe_test_images(images, self.limit)} (pixels from 0 to 1, and clipped to it), "
            f"seed {self.seed}. White-box: through the exact gradients of the network itself in "
            "eval mode and float32, step sizes folded in; untargeted, with the true labels."
        )

    def require(self, images: DataSet) -> None:
        """Refuse where the toolbox is missing; see :meth:`ThreatModel.require`."""
        self._evasion()

    def _evasion(self) -> ModuleType:
        return load_extra("art.attacks.evasion", f"threat '{self.name}'")

    def evaluate(
        self,
        network: nn.Module,
        images: DataSet,
        fabric: Fabric,
        progress: Progress | None = None,
    ) -> Outcome:
        """Measure a network; see :meth:`ThreatModel.evaluate`."""
        self.require(images)
        description = self.describe(images)
        images = some_test_images(images, self.limit)
        fabric = _in_float32(fabric)
        scores = []
        for eps in self.eps:
            attacked = self.attack(network, images, fabric, eps)
            scores.append(evaluate(network, attacked, fabric, EVALUATION_BATCH))
            if progress is not None:
                progress(len(scores), len(self.eps))
        return Outcome(
            threat=self.name,
            description=description,
            unit=self.unit,
            levels=self.eps,
            cases=(self.name,),
            accuracy=torch.tensor([[s.accuracy for s in scores]], dtype=torch.float64),
            loss=torch.tensor([[s.loss for s in scores]], dtype=torch.float64),
        )

    def attack(self, network: nn.Module, images: DataSet, fabric: Fabric, eps: float) -> DataSet:
        """Attack all test images of a data set.

        Args:
            network: with or without step sizes, on the device of ``fabric``.
            images: the data set.
            fabric: device.
            eps: the largest change.

        Returns:
            The data set with attacked test images in memory, float32 in 0 to 255, no further than
            ``255 * eps`` from the original ones in any pixel and channel, up to rounding.

        Raises:
            ConfigurationError: the toolbox can't be imported, or the images don't fit the attack.
        """
        evasion = self._evasion()
        pixels, labels = read_test_images(images, fabric.device)
        clean = pixels / 255
        attacked = clean
        if eps > 0:
            classifier = _classifier(network, images, fabric)
            one_hot = np.eye(images.num_classes, dtype=np.float32)[labels]
            with seeded(self.seed, 0, ATTACK):
                found = self._run(evasion, classifier, clean.numpy(), one_hot, eps)
            # The toolbox lets AutoAttack pass eps by a ten thousandth of it.
            attacked = torch.from_numpy(found).clamp(clean - eps, clean + eps).clamp(0, 1)
        return with_test_images(images, 255 * attacked, labels)

    @abstractmethod
    def _method(self, images: DataSet) -> str:
        """Name the attack with its settings."""

    @abstractmethod
    def _run(
        self, evasion: Any, classifier: Any, pixels: np.ndarray, labels: np.ndarray, eps: float
    ) -> np.ndarray:
        """Attack with the toolbox.

        Args:
            evasion: the toolbox's module.
            classifier: its view of the network.
            pixels: float32 ``(n, channels, height, width)``, from 0 to 1.
            labels: one-hot, float32 ``(n, num_classes)``.
            eps: greater than 0.

        Returns:
            Attacked pixels, as ``pixels``.
        """


@dataclass(frozen=True)
class FGSM(Attack):
    """Fast gradient sign method (arXiv 1412.6572): one step ``x + ε sign(∂L/∂x)``."""

    name = "fgsm"

    def _method(self, images: DataSet) -> str:
        return "FGSM, one step of length ε along the sign of the cross-entropy's gradient,"

    def _run(
        self, evasion: Any, classifier: Any, pixels: np.ndarray, labels: np.ndarray, eps: float
    ) -> np.ndarray:
        attack = evasion.FastGradientMethod(
            classifier, norm=np.inf, eps=eps, eps_step=eps, batch_size=EVALUATION_BATCH
        )
        return cast(np.ndarray, attack.generate(pixels, labels))


@dataclass(frozen=True)
class PGD(Attack):
    """Projected gradient descent (arXiv 1706.06083): steps along the gradient's sign.

    Attributes:
        steps: how many.
        step_size: length of each, as a fraction of ε.
        restarts: random starts in the ball; what counts is whether one of them succeeds.
    """

    steps: int = 20
    step_size: float = 0.25
    restarts: int = 1

    name = "pgd"

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one("steps", self.steps)
        at_least_one("restarts", self.restarts)
        if not 0 < self.step_size <= 2:
            raise ConfigurationError(
                f"step_size is {self.step_size:g}; it must be greater than 0 and at most 2, a "
                "fraction of eps"
            )

    def _method(self, images: DataSet) -> str:
        return (
            f"PGD on the cross-entropy, {self.steps} steps of {self.step_size:g} ε from "
            f"{self.restarts} random start{'s' * (self.restarts > 1)},"
        )

    def _run(
        self, evasion: Any, classifier: Any, pixels: np.ndarray, labels: np.ndarray, eps: float
    ) -> np.ndarray:
        attack = evasion.ProjectedGradientDescentPyTorch(
            classifier,
            norm=np.inf,
            eps=eps,
            eps_step=self.step_size * eps,
            max_iter=self.steps,
            num_random_init=self.restarts,
            batch_size=EVALUATION_BATCH,
            verbose=False,
        )
        return cast(np.ndarray, attack.generate(pixels, labels))


@dataclass(frozen=True)
class AutoAttack(Attack):
    """The toolbox's AutoAttack: four attacks, each on the images that withstood those before.

    Not the one of the paper (arXiv 2003.01690) and of RobustBench in every part: APGD on the DLR
    loss is untargeted here, and DeepFool stands in for FAB. An image that withstands all attacks
    stays as it was, so that the loss is that of partly unchanged images.

    Attributes:
        steps: of each run of APGD and of DeepFool.
        restarts: of APGD and of Square Attack.
        queries: of each run of Square Attack.
    """

    steps: int = 100
    restarts: int = 5
    queries: int = 5000

    name = "autoattack"

    def __post_init__(self) -> None:
        super().__post_init__()
        for setting in ("steps", "restarts", "queries"):
            at_least_one(setting, getattr(self, setting))

    def require(self, images: DataSet) -> None:
        """Refuse narrow images, or a missing toolbox; see :meth:`ThreatModel.require`."""
        height, width = images.image_size
        if round((SQUARE * height * width) ** 0.5) >= min(height, width):
            raise ConfigurationError(
                f"images of {height}x{width} pixels don't fit the squares of Square Attack; choose "
                "threat 'pgd'"
            )
        super().require(images)

    def _method(self, images: DataSet) -> str:
        runs = f"{self.restarts} x {self.steps} steps"
        # The DLR loss divides by the distance from the best class to the third.
        dlr = f"untargeted APGD-DLR ({runs}), " if images.num_classes > 2 else ""
        return (
            f"AutoAttack as adversarial-robustness-toolbox composes it: APGD-CE ({runs}), {dlr}"
            f"DeepFool ({self.steps} steps in L2; counts only inside the ball) and Square Attack "
            f"({self.restarts} x {self.queries} queries), each on what withstood those before, "
        ) + "without the targeted APGD-DLR and FAB of the original,"

    def _run(
        self, evasion: Any, classifier: Any, pixels: np.ndarray, labels: np.ndarray, eps: float
    ) -> np.ndarray:
        attacked, standing = pixels.copy(), classifier.predict(pixels).argmax(1) == labels.argmax(1)
        # What the toolbox's AutoAttack does, which wants another package for it.
        step = load_extra("art.attacks.evasion.auto_attack", f"threat '{self.name}'").run_attack
        for attack in self.attacks(evasion, classifier, eps):
            if standing.any():
                attacked, standing = step(
                    x=attacked,
                    y=labels,
                    sample_is_robust=standing,
                    attack=attack,
                    estimator_orig=classifier,
                    norm=np.inf,
                    eps=eps,
                )
        return attacked

    def attacks(self, evasion: Any, classifier: Any, eps: float) -> list[Any]:
        """Make the toolbox's attacks, in their order; see :meth:`Attack._run`."""
        shared = {"norm": np.inf, "eps": eps, "batch_size": EVALUATION_BATCH, "verbose": False}
        losses = ["cross_entropy", *["difference_logits_ratio"] * (classifier.nb_classes > 2)]
        return [
            *(
                evasion.AutoProjectedGradientDescent(
                    classifier,
                    **shared,
                    eps_step=2 * eps,
                    max_iter=self.steps,
                    nb_random_init=self.restarts,
                    loss_type=loss,
                )
                for loss in losses
            ),
            evasion.DeepFool(
                classifier,
                max_iter=self.steps,
                epsilon=1e-3,
                nb_grads=10,
                batch_size=EVALUATION_BATCH,
                verbose=False,
            ),
            evasion.SquareAttack(
                classifier,
                **shared,
                max_iter=self.queries,
                p_init=SQUARE,
                nb_restarts=self.restarts,
            ),
        ]


class _Logits(nn.Module):
    """A network's outputs.

    The toolbox runs the parts of an ``nn.Sequential`` one by one, without its hooks, and puts a
    network with an LSTM into training mode; this hides the one, and folding removes the other.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.network(x))


def _in_float32(fabric: Fabric) -> Fabric:
    """Give the same device without automatic mixed precision."""
    device = fabric.device
    devices = 1 if device.index is None or device.type == "cpu" else [device.index]
    return Fabric(accelerator=device.type, devices=devices, precision="32-true")


def _classifier(network: nn.Module, images: DataSet, fabric: Fabric) -> Any:
    """Show a folded copy of a network to the toolbox."""
    classification = load_extra("art.estimators.classification", "an attack")
    plain = copy.deepcopy(network).eval().requires_grad_(False)
    if hasattr(plain, "time_stepping"):
        fold(plain)
    return classification.PyTorchClassifier(
        _Logits(plain),
        loss=nn.CrossEntropyLoss(),
        input_shape=(images.channels, *images.image_size),
        nb_classes=images.num_classes,
        clip_values=(0.0, 1.0),
        preprocessing=(np.array(images.mean), np.array(images.std)),
        device_type="gpu" if fabric.device.type == "cuda" else "cpu",
    )


def _fraction(eps: float) -> str:
    """Write ε as a number of grey levels where it is one."""
    levels = 255 * eps
    whole = abs(levels - round(levels)) < 1e-9
    return f"{round(levels)}/255" if whole and 0 < eps < 1 else f"{eps:g}"
