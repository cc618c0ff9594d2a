"""A stage's products in one operation, for networks on the CPU.

Averages of the weights, controller and products are dozens of tiny operations for each block,
and forward, backward and bookkeeping of each cost more than what it computes. Here autograd sees
one node for a stage, and what is tiny is computed in numpy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from timestepper.controllers.arrays import Array, ArrayController
from timestepper.controllers.second_gradients import second_gradients
from timestepper.stepping.branches import average_weights
from timestepper.stepping.factors import Run, along

PLAIN = (Tensor, nn.Parameter)
PRECISIONS = (torch.float32, torch.float64)
LARGEST = 2**16
"""Numbers in a controller's parameters up to which numpy pays. Products of larger matrices take
longer than calling them, and numpy's threads and torch's would wait for each other."""


@dataclass(frozen=True, slots=True)
class Alike:
    """Weights of one shape, one behind the other, in the order in which they are read.

    Attributes:
        shape: of each, ``(out, in, *kernel)``.
        count: how many.
        averages: how many numbers their averages have together.
    """

    shape: torch.Size
    count: int
    averages: int


@dataclass(frozen=True, slots=True)
class ArrayPlan:
    """What is the same in all passes of a stage.

    Attributes:
        runs: what the vectors' values are multiplied by, one vector after the other.
        shapes: of the weights that are read.
        alike: the same weights.
        inverses: for each number in the averaged weights, one over how many were added for it.
    """

    runs: tuple[Run, ...]
    shapes: list[torch.Size]
    alike: list[Alike]
    inverses: Array

    @classmethod
    def of(cls, weights: Sequence[Tensor], runs: Sequence[Run]) -> ArrayPlan:
        """Plan the passes with such weights."""
        alike = []
        for shape, members in groupby(weights, lambda weight: weight.shape):
            count = sum(1 for _ in members)
            alike.append(Alike(shape, count, count * shape.numel() // shape[1]))
        return cls(
            runs=tuple(runs),
            shapes=[weight.shape for weight in weights],
            alike=alike,
            inverses=np.repeat(
                [1 / same.shape[1] for same in alike], np.array([s.averages for s in alike], int)
            ),
        )


def array_products(
    plan: ArrayPlan, controller: nn.Module, weights: Sequence[Tensor], joined: Tensor
) -> Tensor | None:
    """Average weights, compute step sizes and multiply vectors by them.

    Args:
        plan: for these weights and vectors.
        controller: of the stage.
        weights: what the controller reads, as many for each branch.
        joined: the values of the vectors, one behind the other, ``(values,)``.

    Returns:
        The products, likewise; None where numpy can't compute them, or not as fast: the
        controller has no such code, runs hooks or is large; not all tensors are plain ones on the
        CPU, float32 or float64, or a weight has another shape now; or operations are being traced
        or transformed.
    """
    if (
        not _written_in_arrays(controller)
        or torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or is_in_torch_dispatch_mode()
    ):
        return None
    operands = controller.operands()
    dtype = joined.dtype
    if (
        dtype not in PRECISIONS
        or [weight.shape for weight in weights] != plan.shapes
        or sum(operand.numel() for operand in operands) > LARGEST
        or not all(
            type(tensor) in PLAIN and tensor.is_cpu and tensor.dtype is dtype
            for tensor in (joined, *operands, *weights)
        )
    ):
        return None
    products: Tensor = _ArrayProducts.apply(plan, controller, joined, *operands, *weights)
    return products


def _written_in_arrays(controller: nn.Module) -> TypeGuard[ArrayController]:
    """Tell whether a controller's code in numpy computes what running it would."""
    defined = type(controller).__dict__
    return (
        isinstance(controller, ArrayController)
        and "forward" in defined
        and "forward_arrays" in defined
        and "forward" not in controller.__dict__
        and not controller._forward_hooks
        and not controller._forward_pre_hooks
        and not controller._backward_hooks
        and not controller._backward_pre_hooks
    )


class _ArrayProducts(torch.autograd.Function):
    # Where weights are no longer finite, numpy would warn, which torch's operations don't.
    @staticmethod
    @np.errstate(all="ignore")
    def forward(
        ctx: FunctionCtx,
        plan: ArrayPlan,
        controller: ArrayController,
        joined: Tensor,
        *tensors: Tensor,
    ) -> Tensor:
        """Compute the products; tensors are the controller's operands and the weights."""
        operands, weights = _split(plan, tensors)
        averaged = _average(plan, weights).reshape(controller.depth, -1)
        steps, done = controller.forward_arrays(averaged, *map(_array, operands))
        factors = _along(plan.runs, steps.reshape(-1))
        ctx.save_for_backward(joined, *tensors)
        ctx.rest = plan, controller, averaged, done, factors  # type: ignore[attr-defined]
        return torch.from_numpy(_array(joined) * factors)

    @staticmethod
    @np.errstate(all="ignore")
    def backward(ctx: FunctionCtx, *grad_outputs: Any) -> Any:
        """Compute all gradients."""
        plan, controller, averaged, done, factors = ctx.rest  # type: ignore[attr-defined]
        joined, *tensors = ctx.saved_tensors  # type: ignore[attr-defined]
        if torch.is_grad_enabled():
            compute = partial(_composed, plan, controller)
            return None, None, *second_gradients(compute, [joined, *tensors], grad_outputs[0])
        operands, _ = _split(plan, tensors)
        grad = grad_outputs[0].numpy()
        of_steps = np.zeros((controller.depth, controller.channels), grad.dtype)
        _add_along(plan.runs, of_steps.reshape(-1), grad * _array(joined))
        of_averaged, *of_operands = controller.backward_arrays(
            of_steps, done, averaged, *map(_array, operands)
        )
        of_weights = _spread(plan, of_averaged.reshape(-1))
        of_joined = torch.from_numpy(grad * factors)
        return None, None, of_joined, *map(torch.from_numpy, of_operands), *of_weights


def _composed(
    plan: ArrayPlan, controller: ArrayController, joined: Tensor, *tensors: Tensor
) -> Tensor:
    """Compute the same in torch's operations, which have derivatives of any order."""
    _, weights = _split(plan, tensors)
    averaged = average_weights(len(weights) // controller.depth, weights)
    return joined * along(plan.runs, controller(averaged))


def _split(plan: ArrayPlan, tensors: Sequence[Tensor]) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    """Separate the controller's operands from the weights."""
    first = len(tensors) - len(plan.shapes)
    return tensors[:first], tensors[first:]


def _array(tensor: Tensor) -> Array:
    array: Array = tensor.detach().numpy()
    return array


def _average(plan: ArrayPlan, weights: Sequence[Tensor]) -> Array:
    """Average each weight over its input dimension, one behind the other."""
    sums = weights[0].new_empty(len(plan.inverses))
    parts = sums.split([same.averages for same in plan.alike])
    rest = iter(weights)
    for same, part in zip(plan.alike, parts, strict=True):
        for place in part.view(same.count, same.shape[0], *same.shape[2:]).unbind(0):
            torch.sum(next(rest), 1, out=place)
    averages: Array = sums.numpy()
    averages *= plan.inverses
    return averages


def _spread(plan: ArrayPlan, grad: Array) -> list[Tensor]:
    """Spread the gradient of averages evenly over the input dimension, as expanded views."""
    parts = torch.from_numpy(grad * plan.inverses.astype(grad.dtype)).split(
        [same.averages for same in plan.alike]
    )
    return [
        member
        for same, part in zip(plan.alike, parts, strict=True)
        for member in part.view(same.count, same.shape[0], 1, *same.shape[2:])
        .expand(same.count, *same.shape)
        .unbind(0)
    ]


def _along(runs: Sequence[Run], steps: Array) -> Array:
    """Put step sizes and ones one behind the other, as :func:`~.factors.along` does."""
    return np.concatenate(
        [
            np.ones(length, steps.dtype) if start is None else steps[start : start + length]
            for start, length in runs
        ]
    )


def _add_along(runs: Sequence[Run], steps: Array, values: Array) -> None:
    """Add to each step size the values that stand where :func:`_along` puts it."""
    at = 0
    for start, length in runs:
        if start is not None:
            steps[start : start + length] += values[at : at + length]
        at += length
