"""Everything about a network's stability in one record: bound, spectra, amplification."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from timestepper.errors import StabilityError
from timestepper.stability.amplification import LOCAL_TOLERANCE, Amplification
from timestepper.stability.apart import outside_modes
from timestepper.stability.lipschitz import Lipschitz
from timestepper.stability.operators import Jacobian
from timestepper.stability.plain import plain
from timestepper.stability.unrolled import Step, UnrolledNetwork, Values, unroll, unstepped
from timestepper.stepping import Branch, step_sizes

EIGENVALUES = 6
LARGEST_EPSILON = 1e6


@dataclass(frozen=True, slots=True)
class StepStability:
    """One Euler step.

    Attributes:
        name: the branch's name.
        stage: its stage.
        step_size: mean over channels of Δt; 1 where the network is plain or folded.
        smallest_step_size: the smallest of any channel.
        largest_step_size: the largest.
        lipschitz: bound of F's Lipschitz constant, ‖W_d‖₂ of Eq. 7, without step size; None where
            F has none.
        factor: factor of Eq. 7, 1 + ‖Δt_d ⊗ W_d‖₂ for a step sizes' vector Δt_d; where the
            shortcut projects, its norm instead of 1.
        bound: log10 of the bound from y_0 to the state after the step.
        jacobian_norm: largest ‖∂(Δt_d ⊗ F)/∂y_d‖₂ at the images.
        eigenvalues: of I + Δt·J, those of largest modulus at the image where it is largest
            (Eq. 4); empty where y_d is not added as it is or the iterations did not converge.
        random: largest ‖y'_n − y_n‖/ε of the state after the step over random perturbations of y_0.
        worst: the same along the direction that grows most up to y_D.
    """

    name: str
    stage: str
    step_size: float
    smallest_step_size: float
    largest_step_size: float
    lipschitz: float | None
    factor: float | None
    bound: float | None
    jacobian_norm: float
    eigenvalues: tuple[complex, ...]
    random: float
    worst: float


@dataclass(frozen=True, slots=True)
class StageStability:
    """The steps of one stage; its first state is perturbed.

    Attributes:
        name: the stage's name.
        evolution_time: T = Σ Δt_d, mean over channels.
        bound: log10 of the bound from the stage's first state to its last: the product of the
            steps' factors, those of other stages between them included, and of the constants of
            what lies between steps (norms, downsampling); None where something has no constant.
        random: largest ‖y'_n − y_n‖/ε at the stage's end over random perturbations.
        worst: the same along the direction that grows most within the stage.
    """

    name: str
    evolution_time: float
    bound: float | None
    random: float
    worst: float


@dataclass(frozen=True, slots=True)
class Stability:
    """What was measured on a network.

    Attributes:
        steps: the Euler steps in order of depth.
        stages: the stages in order of depth.
        bound: log10 of the bound from y_0 to y_D: the product of the steps' factors (Eq. 7) and of
            the constants of what lies between steps (norms, downsampling); None where something
            has no constant.
        random: largest ‖y'_D − y_D‖/ε over images and random perturbations of y_0.
        worst: the same along the direction that grows most.
        images: how many inputs were looked at.
        epsilon: norm of the perturbations, as a fraction of the perturbed state's norm.
        no_bound: why branches have no bound, a sentence for each reason.
    """

    steps: tuple[StepStability, ...]
    stages: tuple[StageStability, ...]
    bound: float | None
    random: float
    worst: float
    images: int
    epsilon: float
    no_bound: tuple[str, ...]

    @property
    def evolution_time(self) -> float:
        """T = Σ Δt_d over all steps, mean over channels."""
        return sum(step.step_size for step in self.steps)

    def to_dict(self) -> dict[str, Any]:
        """Give plain numbers, strings, lists and dictionaries, as JSON wants them.

        Complex numbers become pairs of real and imaginary part; infinite ones and NaN None.
        """
        record: dict[str, Any] = plain(dataclasses.asdict(self))
        return record


Progress = Callable[[str, int, int], None]
"""Told what is measured, how many of it are done, and of how many."""


@outside_modes()
def measure_stability(
    network: nn.Module,
    images: Tensor,
    *,
    branches: Iterable[Branch] | None = None,
    directions: int = 10,
    epsilon: float = 1e-3,
    seed: int = 0,
    progress: Progress = lambda what, done, of: None,
) -> Stability:
    """Measure a network's stability: Proposition 1's bound, and what is true at some inputs.

    Args:
        network: attached, folded or plain, in eval mode; it stays as it is.
        images: inputs, ``(n, channels, height, width)`` for images, in the network's dtype.
        branches: the branches, instead of having them found.
        directions: random perturbations of each image.
        epsilon: norm of the perturbations, as a fraction of the perturbed state's norm.
        seed: of the random perturbations.
        progress: is told how far it is.

    Raises:
        NoBranchError: no residual branch was found.
        StabilityError: the network is in training mode, its outputs are not finite or its pass
            can't be repeated; or the images or numbers are impossible.
    """
    _check(images, directions, epsilon)
    unrolled = unroll(network, images[:1], branches)
    generator = torch.Generator().manual_seed(seed)
    looks = []
    for number, image in enumerate(images, start=1):
        look = _Look(unrolled, image[None], epsilon)
        look.perturb(directions, generator)
        for done, step in enumerate(unrolled.steps, start=1):
            look.linearise(step)
            progress(f"image {number} of {len(images)}", done, len(unrolled.steps))
        looks.append(look)
    bounds = _Bounds(unrolled, looks[0].values, network)
    sizes = _step_sizes(network, unrolled)
    steps = []
    for done, step in enumerate(unrolled.steps, start=1):
        size = sizes[step.branch.name]
        widest = max(looks, key=lambda look: look.radius(step))
        steps.append(
            StepStability(
                name=step.branch.name,
                stage=step.branch.stage,
                step_size=size.mean().item(),
                smallest_step_size=size.min().item(),
                largest_step_size=size.max().item(),
                lipschitz=bounds.lipschitz(step),
                factor=bounds.factor(step),
                bound=bounds.between(unrolled.input_state, step.state),
                jacobian_norm=max(look.norms[step] for look in looks),
                eigenvalues=tuple(complex(value) for value in widest.eigenvalues[step]),
                random=max(look.random[step.state] for look in looks),
                worst=max(look.worst[step.state] for look in looks),
            )
        )
        progress("bound", done, len(unrolled.steps))
    stages = tuple(
        StageStability(
            name=name,
            evolution_time=sum(sizes[step.branch.name].mean().item() for step in members),
            bound=bounds.between(members[0].start, members[-1].state),
            random=max(look.stages[name][0] for look in looks),
            worst=max(look.stages[name][1] for look in looks),
        )
        for name, members in unrolled.stages.items()
    )
    return Stability(
        steps=tuple(steps),
        stages=stages,
        bound=steps[-1].bound,
        random=steps[-1].random,
        worst=steps[-1].worst,
        images=len(images),
        epsilon=epsilon,
        no_bound=tuple(bounds.reasons),
    )


@outside_modes()
def log10_bound(network: nn.Module, example_input: Tensor) -> float | None:
    """Compute Proposition 1's bound on the growth of a perturbation of y_0 up to y_D (Eq. 7).

    Args:
        network: attached, folded or plain, in eval mode; it stays as it is.
        example_input: an input, ``(1, channels, height, width)`` for images; only its shape, dtype
            and device matter.

    Returns:
        log10 of the bound; None where a branch has none.

    Raises:
        NoBranchError: no residual branch was found.
        StabilityError: the network is in training mode, or its pass can't be repeated.
    """
    unrolled = unroll(network, example_input)
    bounds = _Bounds(unrolled, unrolled.evaluate(example_input), network)
    return bounds.between(unrolled.input_state, unrolled.steps[-1].state)


def _check(images: Tensor, directions: int, epsilon: float) -> None:
    if images.dtype not in (torch.float32, torch.float64):
        raise StabilityError(
            f"images of {images.dtype} are too coarse: give network and images as float32"
        )
    if not images.isfinite().all():
        raise StabilityError("the images hold NaN or infinite values")
    if directions < 1:
        raise StabilityError(f"directions must be at least 1, not {directions}")
    smallest = math.sqrt(torch.finfo(images.dtype).eps)
    if not smallest <= epsilon <= LARGEST_EPSILON:
        raise StabilityError(
            f"epsilon must be from {smallest:.1e}, below which {images.dtype} rounds, to "
            f"{LARGEST_EPSILON:g}, not {epsilon}"
        )


def _step_sizes(network: nn.Module, unrolled: UnrolledNetwork) -> dict[str, Tensor]:
    """Give each branch's step sizes; those of a plain network are 1."""
    sizes = step_sizes(network) if hasattr(network, "time_stepping") else {}
    one = torch.ones(1, device="cpu")
    return {step.branch.name: sizes.get(step.branch.name, one) for step in unrolled.steps}


class _Look:
    """What is true at one image.

    Attributes:
        values: results of the network's operations on it.
        norms: ‖∂(Δt ⊗ F)/∂y‖₂ by step.
        eigenvalues: of I + Δt·J by step, those of largest modulus.
        random: largest growth of y_0's random perturbations, by the operation that made the state.
        worst: growth along the worst direction, the same way.
        stages: both growths from a stage's first state to its last one, by stage.
    """

    def __init__(self, unrolled: UnrolledNetwork, image: Tensor, epsilon: float) -> None:
        self.unrolled = unrolled
        self.epsilon = epsilon
        self.values: Values = unrolled.evaluate(image)
        if not all(self.values[index].isfinite().all() for index in unrolled.trace.returned):
            raise StabilityError("the network's outputs are not finite for one of the images")
        self.norms: dict[Step, float] = {}
        self.eigenvalues: dict[Step, NDArray[np.complex128]] = {}
        self.random: dict[int, float] = {}
        self.worst: dict[int, float] = {}
        self.stages: dict[str, tuple[float, float]] = {}

    def perturb(self, directions: int, generator: torch.Generator) -> None:
        """Watch perturbations of y_0, and of each stage's first state."""
        states = [step.state for step in self.unrolled.steps]
        random, worst = self._growth(self.unrolled.input_state, states, directions, generator)
        self.random = dict(zip(states, random, strict=True))
        self.worst = dict(zip(states, worst, strict=True))
        for name, members in self.unrolled.stages.items():
            ends = [members[-1].state]
            random, worst = self._growth(members[0].start, ends, directions, generator)
            self.stages[name] = random[-1], worst[-1]

    def _growth(
        self, start: int, states: list[int], directions: int, generator: torch.Generator
    ) -> tuple[list[float], list[float]]:
        amplification = Amplification(self.unrolled, self.values, start, states, self.epsilon)
        random = amplification.random(directions, generator).max(0)
        return random.tolist(), amplification.worst().tolist()

    def linearise(self, step: Step) -> None:
        """Find norm and eigenvalues of a step's Jacobian."""
        function = self.unrolled.function(self.values, step.start, step.end)
        jacobian = Jacobian(function, self.values[step.start], LOCAL_TOLERANCE)
        self.norms[step] = jacobian.spectral_norm()
        self.eigenvalues[step] = (
            jacobian.eigenvalues(EIGENVALUES, shift=1.0)
            if step.is_plain
            else np.empty(0, np.complex128)
        )

    def radius(self, step: Step) -> float:
        """Give the spectral radius of I + Δt·J, as far as it was found."""
        return float(np.abs(self.eigenvalues[step]).max(initial=0.0))


class _Bounds:
    """Proposition 1's bounds, None where there are none, and the reasons why."""

    def __init__(self, unrolled: UnrolledNetwork, values: Values, network: nn.Module) -> None:
        self.reasons: dict[str, None] = {}
        self._stepped = Lipschitz(unrolled, values)
        without = unstepped(network) if hasattr(network, "time_stepping") else {}
        own = unrolled.network.state_dict()
        changed = {name: t for name, t in without.items() if not torch.equal(t, own[name])}
        self._unstepped = self._stepped.with_tensors(changed)

    def lipschitz(self, step: Step) -> float | None:
        """Bound ‖W_d‖₂, without step sizes."""
        return _exponential(self._log(self._unstepped, step.start, step.end))

    def factor(self, step: Step) -> float | None:
        """Compute the factor of Eq. 7."""
        branch = _exponential(self._log(self._stepped, step.start, step.end))
        shortcut = _exponential(self._log(self._stepped, step.start, step.shortcut))
        return None if branch is None or shortcut is None else branch + shortcut

    def between(self, start: int, end: int) -> float | None:
        """Bound the growth from one state to another, as log10."""
        logarithm = self._log(self._stepped, start, end)
        return None if logarithm is None else logarithm / math.log(10)

    def _log(self, constants: Lipschitz, start: int, end: int) -> float | None:
        try:
            return constants.log_constant(start, end).item()
        except StabilityError as error:
            self.reasons[str(error)] = None
            return None


def _exponential(logarithm: float | None) -> float | None:
    if logarithm is None:
        return None
    try:
        return math.exp(logarithm)
    except OverflowError:
        return math.inf
