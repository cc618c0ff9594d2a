"""A stage's products in one operation, for networks on the CPU.

Averages of the weights, controller and products are dozens of tiny operations for each block,
and forward, backward and bookkeeping of each cost more than what it computes. Here autograd sees
one node for a stage, and what is tiny is computed in compiled loops.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from types import ModuleType
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from timestepper.controllers.arrays import Array, ArrayController
from timestepper.controllers.second_gradients import second_gradients
from timestepper.controllers.transforms import in_a_transform, stand_for_many
from timestepper.errors import ConfigurationError
from timestepper.stepping.branches import average_weights
from timestepper.stepping.factors import Run, along

PLAIN = (Tensor, nn.Parameter)
PRECISIONS = {torch.float32: np.float32, torch.float64: np.float64}
LARGEST = 2**17
"""Numbers in a controller's parameters up to which loops pay: torch multiplies larger matrices
faster, on all cores."""


@dataclass(frozen=True, slots=True)
class ArrayPlan:
    """What is the same in all passes of a stage.

    Attributes:
        runs: what the vectors' values are multiplied by, one vector after the other.
        table: the same, ``(runs, 2)``, with a start of -1 for ones.
        vectors: how many there are.
        small: shapes of the vectors, then of the controller's operands.
        lengths: how many numbers each of these has.
        weights: shapes of the weights that are read.
        sizes: outputs, inputs and numbers in the kernel of each, ``(weights, 3)``.
        inverses: for each number in the averaged weights, one over how many were added for it.
        places: shape, strides and start of each weight's part of them, expanded like the weight.
    """

    runs: tuple[Run, ...]
    table: Array
    vectors: int
    small: list[torch.Size]
    lengths: Array
    weights: list[torch.Size]
    sizes: Array
    inverses: Array
    places: list[tuple[torch.Size, tuple[int, ...], int]]

    @classmethod
    def of(
        cls,
        runs: Sequence[Run],
        vectors: Sequence[Tensor],
        operands: Sequence[Tensor],
        weights: Sequence[Tensor],
    ) -> ArrayPlan:
        """Plan the passes with such tensors."""
        places = []
        counts: list[int] = []
        for weight in weights:
            expanded = torch.empty((weight.shape[0], 1, *weight.shape[2:]), device="meta")
            places.append((weight.shape, expanded.expand(weight.shape).stride(), sum(counts)))
            counts.append(expanded.numel())
        inputs = [weight.shape[1] for weight in weights]
        small = [*vectors, *operands]
        return cls(
            runs=tuple(runs),
            table=np.array([(-1 if start is None else start, n) for start, n in runs]),
            vectors=len(vectors),
            small=[tensor.shape for tensor in small],
            lengths=np.array([tensor.numel() for tensor in small], int),
            weights=[weight.shape for weight in weights],
            sizes=np.array([(*w.shape[:2], w.shape[2:].numel()) for w in weights]),
            inverses=np.repeat(1 / np.array(inputs), counts),
            places=places,
        )


def array_products(
    plan: ArrayPlan, controller: nn.Module, vectors: Sequence[Tensor], weights: Sequence[Tensor]
) -> list[Tensor] | None:
    """Average weights, compute step sizes and multiply vectors by them.

    Args:
        plan: for these vectors and weights.
        controller: of the stage.
        vectors: what is multiplied.
        weights: what the controller reads, as many for each branch.

    Returns:
        The products, in the shapes of the vectors; None where loops can't compute them, or not as
        fast: the controller has no such code, runs hooks or layers that are not torch's, or is
        large; not all tensors are plain ones on the CPU, dense, and float32 or float64 throughout,
        or one has another shape now; operations are being traced or transformed; or numba does not
        run here.
    """
    if (
        not _in_arrays(controller)
        or torch.compiler.is_compiling()
        or in_a_transform()
        or is_in_torch_dispatch_mode()
    ):
        return None
    operands = controller.operands()
    small = [*vectors, *operands]
    inputs_last = [_has_inputs_last(weight) for weight in weights]
    if (
        [tensor.shape for tensor in small] != plan.small
        or [weight.shape for weight in weights] != plan.weights
        or sum(operand.numel() for operand in operands) > LARGEST
        or not _are_plain([*small, *weights])
        or not all(tensor.is_contiguous() for tensor in small)
        or None in inputs_last
        or not _loops()
    ):
        return None
    return list(_ArrayProducts.apply(plan, controller, inputs_last, *small, *weights))


@cache
def _loops() -> ModuleType | None:
    """Import what takes time only where it is used."""
    try:
        from timestepper.stepping import product_loops
    except Exception:  # Whatever keeps numba from running, torch computes the same.
        return None
    return None if product_loops.interpreted() else product_loops


def _in_arrays(controller: nn.Module) -> TypeGuard[ArrayController]:
    """Tell whether a controller's code for arrays computes what running it would."""
    defined = type(controller).__dict__
    return (
        isinstance(controller, ArrayController)
        and controller.reads_weights
        and "forward" in defined
        and "forward_arrays" in defined
        and "forward" not in controller.__dict__
        and not _has_hooks(controller)
        and all(map(_runs_torchs_forward, controller.children()))
    )


def _runs_torchs_forward(layer: nn.Module) -> bool:
    """Tell whether a layer does nothing of its own, as a low-rank adapter or a hook would."""
    own = type(layer) is nn.Linear or type(layer).forward.__module__.startswith("torch.nn.modules.")
    return own and "forward" not in layer.__dict__ and not _has_hooks(layer)


def _has_hooks(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


def _are_plain(tensors: Sequence[Tensor]) -> bool:
    dtype = tensors[0].dtype
    return dtype in PRECISIONS and all(
        type(tensor) in PLAIN and tensor.is_cpu and tensor.dtype is dtype and not tensor.is_neg()
        for tensor in tensors
    )


def _has_inputs_last(weight: Tensor) -> bool | None:
    """Tell whether a weight's inputs lie side by side; None where it has gaps or another order."""
    if weight.is_contiguous():
        return False
    if weight.ndim == 4:
        last = weight.is_contiguous(memory_format=torch.channels_last)
    else:
        last = weight.movedim(1, -1).is_contiguous()
    return True if last else None


class _ArrayProducts(torch.autograd.Function):
    # In users' own controllers numpy would warn of what is not finite, which torch's don't.
    @staticmethod
    @np.errstate(all="ignore")
    def forward(
        ctx: FunctionCtx,
        plan: ArrayPlan,
        controller: ArrayController,
        inputs_last: Sequence[bool],
        *tensors: Tensor,
    ) -> tuple[Tensor, ...]:
        """Compute the products; tensors are the vectors, the controller's operands, the weights."""
        loops: Any = _loops()
        averages = np.empty(len(plan.inverses), PRECISIONS[tensors[0].dtype])
        # Copies: what changes in between does not reach the backward pass.
        values = loops.read(
            _addresses(tensors), plan.lengths, plan.sizes, np.array(inputs_last), averages
        )
        given = averages.reshape(controller.depth, -1), *_apart(values, plan.small)[plan.vectors :]
        steps, done = controller.forward_arrays(*given)
        if steps.shape != (controller.depth, controller.channels):
            raise ConfigurationError(
                f"forward_arrays of {type(controller).__name__} gives step sizes of shape "
                f"{steps.shape}, not (depth, channels): {controller.depth, controller.channels}"
            )
        flat = steps.reshape(-1)
        ctx.save_for_backward(*tensors)
        ctx.rest = plan, controller, values, given, flat, done  # type: ignore[attr-defined]
        products = loops.multiply(plan.table, flat, values)
        return tuple(map(torch.from_numpy, _apart(products, plan.small[: plan.vectors])))

    @staticmethod
    @np.errstate(all="ignore")
    def backward(ctx: FunctionCtx, *grad_outputs: Tensor) -> Any:
        """Compute all gradients."""
        plan, controller, values, given, steps, done = ctx.rest  # type: ignore[attr-defined]
        if torch.is_grad_enabled() or stand_for_many(grad_outputs):
            tensors = ctx.saved_tensors  # type: ignore[attr-defined]
            joined = torch.cat([grad.reshape(-1) for grad in grad_outputs])
            compute = partial(_composed, plan, controller)
            return None, None, None, *second_gradients(compute, tensors, joined)
        loops: Any = _loops()
        dense = [grad.resolve_neg().contiguous() for grad in grad_outputs]
        of_steps, of_vectors = loops.multiply_backward(
            _addresses(dense), plan.lengths[: plan.vectors], plan.table, steps, values
        )
        of_averaged, *of_operands = controller.backward_arrays(
            of_steps.reshape(controller.depth, -1), done, *given
        )
        of_small = *_apart(of_vectors, plan.small[: plan.vectors]), *of_operands
        of_weights = _spread(plan, of_averaged.reshape(-1))
        return None, None, None, *map(torch.from_numpy, of_small), *of_weights


def _composed(plan: ArrayPlan, controller: ArrayController, *tensors: Tensor) -> Tensor:
    """Compute the same in torch's operations, all products one behind the other."""
    vectors, operands = tensors[: plan.vectors], tensors[plan.vectors : len(plan.small)]
    weights = tensors[len(plan.small) :]
    averaged = average_weights(len(weights) // controller.depth, weights)
    joined = torch.cat([vector.reshape(-1) for vector in vectors])
    return joined * along(plan.runs, controller.composed(averaged, *operands))


def _addresses(tensors: Sequence[Tensor]) -> Array:
    return np.array([tensor.data_ptr() for tensor in tensors])


def _apart(values: Array, shapes: Iterable[torch.Size]) -> list[Array]:
    """View values that lie one behind the other as arrays of these shapes."""
    arrays = []
    at = 0
    for shape in shapes:
        array = values[at : (at := at + shape.numel())]
        arrays.append(array if len(shape) == 1 else array.reshape(shape))
    return arrays


def _spread(plan: ArrayPlan, grad: Array) -> list[Tensor]:
    """Spread the gradient of averages evenly over the input dimension, as expanded views."""
    values = torch.from_numpy(grad * plan.inverses.astype(grad.dtype, copy=False))
    return [values.as_strided(shape, strides, at) for shape, strides, at in plan.places]
