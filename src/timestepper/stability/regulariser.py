"""Training for stability: a penalty on the bound of Proposition 1, or on spectral norms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from timestepper.errors import ConfigurationError, StateError
from timestepper.stability.apart import copy_of, outside_modes
from timestepper.stability.lipschitz import Lipschitz
from timestepper.stability.operators import Function
from timestepper.stability.unrolled import unroll
from timestepper.stepping.stages import TimeStepping

Kind = Literal["bound", "spectral"]

FIRST_STEPS = 15
"""Power iterations before training: random vectors start far below the norms."""


class StabilityPenalty:
    """A scalar for the loss that makes a network more stable, at the cost of accuracy.

    ``"bound"`` is the logarithm of Eq. 7 over the branches, Σ_d log(1 + ‖Δt_d ⊗ W_d‖₂), where
    ‖Δt_d ⊗ W_d‖₂ stands for the product of the norms of the branch's affine runs (convolution,
    batch norm, step sizes in one operator) and the Lipschitz constants of what lies between.
    ``"spectral"`` is spectral norm regularisation (Yoshida and Miyato 2017), half the sum of the
    squared norms of these runs, without step sizes.

    Each call makes one power iteration for each run, from where the call before has ended, so call
    it once per training step. Batch norm counts with its running statistics. The gradient goes to
    weights, norms' scales and controllers; it is that of the norm once the iteration has
    converged. Under DDP all processes get the same value if their running statistics are the same.

    Args:
        network: attached or plain, on its device; in training or eval mode, either stays.
        example_input: of the shape of what it will be given, with a batch of 1.
        kind: what is penalised.

    Attributes:
        vectors: left singular vectors of the runs, as far as they are found.

    Raises:
        NoBranchError: no residual branch was found.
        ConfigurationError: there is no such kind.
        StabilityError: a branch has no bound (squeeze-and-excitation, attention), or the
            network's pass can't be repeated.
    """

    @outside_modes()
    def __init__(self, network: nn.Module, example_input: Tensor, kind: Kind = "bound") -> None:
        if kind not in get_args(Kind):
            known = " or ".join(map(repr, get_args(Kind)))
            raise ConfigurationError(f"there is no stability penalty {kind!r}; take {known}")
        self.network = network
        self.kind = kind
        self.unrolled = unroll(copy_of(network).eval(), example_input)
        self.values = self.unrolled.evaluate(example_input)
        self.vectors: list[Tensor] = []
        with torch.no_grad():
            for _ in range(FIRST_STEPS):
                self()

    @outside_modes()
    def __call__(self) -> Tensor:
        """Make one power iteration for each run and compute the penalty, of shape ().

        In the parameters' own precision, also within autocast.
        """
        power = PowerSteps(self.vectors)
        zero = self.values[0].new_zeros(())
        lipschitz = Lipschitz(self.unrolled, self.values, self._tensors(), power, zero)
        logarithms = torch.stack(
            [lipschitz.log_constant(step.start, step.end) for step in self.unrolled.steps]
        )
        self.vectors = power.after
        if self.kind == "spectral":
            return torch.stack(power.norms).square().sum() / 2
        return torch.logaddexp(logarithms, zero).sum()

    def state_dict(self) -> dict[str, Any]:
        """Give what the next call starts from."""
        return {"kind": self.kind, "vectors": list(self.vectors)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where another penalty of the same network was.

        Raises:
            StateError: it was another network, seen with images of another size, or another kind
                of penalty.
        """
        if state["kind"] != self.kind:
            raise StateError(
                f"the stability penalty's state is that of {state['kind']!r}, not {self.kind!r}"
            )
        given = state["vectors"]
        if [vector.shape for vector in given] != [vector.shape for vector in self.vectors]:
            raise StateError(
                "the stability penalty's state belongs to another network or image size"
            )
        self.vectors = [vector.to(own) for vector, own in zip(given, self.vectors, strict=True)]

    def _tensors(self) -> dict[str, Tensor]:
        """Give the network's tensors as they are now, by their names in a plain network."""
        # Copies of buffers: the next forward pass changes running statistics before backward.
        tensors = {
            **dict(self.network.named_parameters(remove_duplicate=False)),
            **{n: b.clone() for n, b in self.network.named_buffers(remove_duplicate=False)},
        }
        stepping = getattr(self.network, "time_stepping", None)
        if isinstance(stepping, TimeStepping) and self.kind == "bound":
            for stage in stepping.stages:
                for factor, product in zip(stage.factors, stage.compute_products(), strict=True):
                    tensors[f"{factor.owner}.{factor.name}".lstrip(".")] = product
        return tensors


class PowerSteps:
    """One power iteration for each operator that it is given, always in the same order.

    Args:
        before: left singular vectors as they were found so far; none at first.

    Attributes:
        after: left singular vectors after this iteration.
        norms: estimated norms, of shape (), with the gradient uᵀ·dA·v to what the operators use.
    """

    def __init__(self, before: Sequence[Tensor]) -> None:
        self.before = before
        self.after: list[Tensor] = []
        self.norms: list[Tensor] = []

    def __call__(self, function: Function, example: Tensor) -> Tensor:
        """Estimate the norm of an affine function's linear part A.

        v = Aᵀu / ‖Aᵀu‖, u = Av / ‖Av‖, σ = uᵀAv.
        """
        with torch.enable_grad():
            origin = torch.zeros_like(example).requires_grad_()
            constant = function(origin)
            left = self._start(constant)
            (pulled_back,) = torch.autograd.grad(constant, origin, left, retain_graph=True)
        right = _unit(pulled_back, pulled_back)
        result = function(right) - constant
        left = _unit(result.detach(), left)
        # A branch may start at zero (its last norm's scale): the norm has gradient 0 there.
        norm = (left * result).sum().clamp_min(torch.finfo(result.dtype).tiny)
        self.after.append(left)
        self.norms.append(norm)
        return norm

    def _start(self, result: Tensor) -> Tensor:
        number = len(self.after)
        if number < len(self.before):
            return self.before[number]
        # The same on all devices and in all processes.
        generator = torch.Generator().manual_seed(number)
        return torch.randn(result.shape, generator=generator, device="cpu").to(result)


def _unit(vector: Tensor, otherwise: Tensor) -> Tensor:
    """Normalise; where there is nothing to normalise take something else."""
    norm = vector.norm()
    return torch.where(norm > 0, vector / norm, otherwise)
