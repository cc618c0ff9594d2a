"""The products of a network's stages in one operation, for networks on the CPU.

Averages of the weights, controller and products are dozens of tiny operations for each block,
and forward, backward and bookkeeping of each cost more than what it computes. Here autograd sees
one node for all stages, and what is tiny is computed in compiled loops.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import islice
from types import ModuleType
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from timestepper.controllers.arrays import Array, ArrayController
from timestepper.controllers.second_gradients import second_gradients
from timestepper.errors import ConfigurationError
from timestepper.stepping.branches import average_weights
from timestepper.stepping.factors import Run, along

PLAIN = (Tensor, nn.Parameter)
PRECISIONS = {torch.float32: np.float32, torch.float64: np.float64}
LARGEST = 2**16
"""Numbers in a controller's parameters up to which loops pay: torch multiplies larger matrices
faster, on all cores."""


@dataclass(frozen=True, slots=True)
class ArrayPlan:
    """What is the same in all passes of a stage.

    Attributes:
        runs: what the vectors' values are multiplied by, one vector after the other.
        table: the same, ``(runs, 2)``, with a start of -1 for ones.
        small: shapes of the vectors, then of the controller's operands.
        lengths: how many numbers each of these has.
        shapes: of the weights that are read.
        sizes: outputs, inputs and numbers in the kernel of each, ``(weights, 3)``.
        inverses: for each number in the averaged weights, one over how many were added for it.
        places: shape, strides and start of each weight's part of them, expanded like the weight.
    """

    runs: tuple[Run, ...]
    table: Array
    small: list[torch.Size]
    lengths: Array
    shapes: list[torch.Size]
    sizes: Array
    inverses: Array
    places: list[tuple[torch.Size, tuple[int, ...], int]]

    @classmethod
    def of(
        cls, runs: Sequence[Run], small: Sequence[Tensor], weights: Sequence[Tensor]
    ) -> ArrayPlan:
        """Plan the passes with such vectors and operands, and such weights."""
        places = []
        counts: list[int] = []
        for weight in weights:
            expanded = torch.empty((weight.shape[0], 1, *weight.shape[2:]), device="meta")
            places.append((weight.shape, expanded.expand(weight.shape).stride(), sum(counts)))
            counts.append(expanded.numel())
        inputs = [weight.shape[1] for weight in weights]
        return cls(
            runs=tuple(runs),
            table=np.array([(-1 if start is None else start, n) for start, n in runs]),
            small=[tensor.shape for tensor in small],
            lengths=np.array([tensor.numel() for tensor in small], int),
            shapes=[weight.shape for weight in weights],
            sizes=np.array([(*w.shape[:2], w.shape[2:].numel()) for w in weights]),
            inverses=np.repeat(1 / np.array(inputs), counts),
            places=places,
        )


@dataclass(frozen=True, slots=True)
class Part:
    """A stage in one pass.

    Attributes:
        plan: for these weights and vectors.
        controller: the stage's.
        vectors: what is multiplied by step sizes.
        weights: what the controller reads, as many for each branch.
    """

    plan: ArrayPlan
    controller: nn.Module
    vectors: Sequence[Tensor]
    weights: Sequence[Tensor]


def array_products(parts: Sequence[Part]) -> list[list[Tensor] | None]:
    """Average weights, compute step sizes and multiply vectors by them.

    Returns:
        For each part its products, in the shapes of its vectors; None where loops can't compute
        them, or not as fast: the controller has no such code, runs hooks or is large; there are
        no vectors; not all tensors are plain ones on the CPU, dense, and float32 or float64
        throughout, or one has another shape now; operations are being traced or transformed;
        or numba does not run here.
    """
    found: list[list[Tensor] | None] = [None] * len(parts)
    if (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or is_in_torch_dispatch_mode()
    ):
        return found
    # Stages that are frozen stay out of the others' graph.
    groups: dict[tuple[torch.dtype, bool], list[tuple[int, _Stage, list[Tensor]]]] = {}
    for place, part in enumerate(parts):
        controller = part.controller
        if not part.vectors or not _in_arrays(controller):
            continue
        operands = controller.operands()
        small = [*part.vectors, *operands]
        tensors = [*small, *part.weights]
        inputs_last = [_has_inputs_last(weight) for weight in part.weights]
        if (
            [tensor.shape for tensor in small] == part.plan.small
            and [weight.shape for weight in part.weights] == part.plan.shapes
            and sum(operand.numel() for operand in operands) <= LARGEST
            and _are_plain(tensors)
            and all(tensor.is_contiguous() for tensor in small)
            and None not in inputs_last
            and _loops()
        ):
            stage = _Stage(part.plan, controller, len(part.vectors), len(operands), inputs_last)
            key = tensors[0].dtype, any(tensor.requires_grad for tensor in tensors)
            groups.setdefault(key, []).append((place, stage, tensors))
    for group in groups.values():
        stages = [stage for _, stage, _ in group]
        inputs = [tensor for _, _, tensors in group for tensor in tensors]
        products = iter(_ArrayProducts.apply(stages, *inputs))
        for place, stage, _ in group:
            found[place] = list(islice(products, stage.vectors))
    return found


@cache
def _loops() -> ModuleType | None:
    """Import what takes time only where it is used."""
    try:
        from timestepper.stepping import product_loops
    except Exception:  # Whatever keeps numba from running, torch computes the same.
        return None
    return product_loops


def _in_arrays(controller: nn.Module) -> TypeGuard[ArrayController]:
    """Tell whether a controller's code for arrays computes what running it would."""
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


def _are_plain(tensors: Sequence[Tensor]) -> bool:
    dtype = tensors[0].dtype
    return dtype in PRECISIONS and all(
        type(tensor) in PLAIN and tensor.is_cpu and tensor.dtype is dtype for tensor in tensors
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


@dataclass(frozen=True, slots=True)
class _Stage:
    """A stage in compiled loops.

    Attributes:
        plan: as in its :class:`Part`.
        controller: likewise.
        vectors: how many.
        operands: how many the controller has.
        inputs_last: of each weight, see :func:`_has_inputs_last`.
    """

    plan: ArrayPlan
    controller: ArrayController
    vectors: int
    operands: int
    inputs_last: list[bool | None]

    @property
    def tensors(self) -> int:
        """How many it has in all."""
        return self.vectors + self.operands + len(self.inputs_last)


class _ArrayProducts(torch.autograd.Function):
    # Where weights are no longer finite, numpy would warn, which torch's operations don't.
    @staticmethod
    @np.errstate(all="ignore")
    def forward(ctx: FunctionCtx, stages: Sequence[_Stage], *tensors: Tensor) -> tuple[Tensor, ...]:
        """Compute all products; tensors are, stage by stage, vectors, operands and weights."""
        loops: Any = _loops()
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)
        passes = []
        products: list[Array] = []
        for stage, (vectors, operands, weights) in _by_stage(stages, tensors):
            plan = stage.plan
            # Copies: what changes in between does not reach the backward pass.
            small = [*vectors, *operands]
            values = _gathered(small, plan.lengths, PRECISIONS[small[0].dtype])
            averages = np.empty(len(plan.inverses), values.dtype)
            loops.average(
                np.array([weight.data_ptr() for weight in weights]),
                plan.sizes,
                np.array(stage.inputs_last),
                averages,
            )
            copies = _apart(values, plan.small)[stage.vectors :]
            given = averages.reshape(stage.controller.depth, -1), *copies
            controller = stage.controller
            steps, done = controller.forward_arrays(*given)
            if steps.shape != (controller.depth, controller.channels):
                raise ConfigurationError(
                    f"forward_arrays of {type(controller).__name__} gives step sizes of shape "
                    f"{steps.shape}, not (depth, channels): {controller.depth, controller.channels}"
                )
            flat = steps.reshape(-1)
            scaled = loops.multiply(plan.table, flat, values)
            products += _apart(scaled, plan.small[: stage.vectors])
            passes.append((values, given, flat, done))
        ctx.stages, ctx.passes = stages, passes  # type: ignore[attr-defined]
        return tuple(map(torch.from_numpy, products))

    @staticmethod
    @np.errstate(all="ignore")
    def backward(ctx: FunctionCtx, *grad_outputs: Tensor | None) -> Any:
        """Compute the gradients of those stages that have any."""
        loops: Any = _loops()
        stages, passes = ctx.stages, ctx.passes  # type: ignore[attr-defined]
        if torch.is_grad_enabled():
            tensors = ctx.saved_tensors  # type: ignore[attr-defined]
            return None, *second_gradients(partial(_composed, stages), tensors, grad_outputs)
        grads: list[Tensor | None] = []
        rest = iter(grad_outputs)
        for stage, (values, given, steps, done) in zip(stages, passes, strict=True):
            plan = stage.plan
            of_products = list(islice(rest, stage.vectors))
            if all(grad is None for grad in of_products):
                grads += [None] * stage.tensors
                continue
            dense = [None if grad is None else grad.contiguous() for grad in of_products]
            grad = _gathered(dense, plan.lengths[: stage.vectors], values.dtype)
            controller = stage.controller
            of_steps, of_vectors = loops.multiply_backward(grad, plan.table, steps, values)
            of_averaged, *of_operands = controller.backward_arrays(
                of_steps.reshape(controller.depth, -1), done, *given
            )
            grads += map(
                torch.from_numpy, (*_apart(of_vectors, plan.small[: stage.vectors]), *of_operands)
            )
            grads += _spread(plan, of_averaged.reshape(-1))
        return None, *grads


def _composed(stages: Sequence[_Stage], *tensors: Tensor) -> list[Tensor]:
    """Compute the same in torch's operations, which have derivatives of any order."""
    products = []
    for stage, (vectors, _, weights) in _by_stage(stages, tensors):
        averaged = average_weights(len(weights) // stage.controller.depth, weights)
        factors = along(stage.plan.runs, stage.controller(averaged))
        parts = factors.split([vector.numel() for vector in vectors])
        products += [v * part.view(v.shape) for v, part in zip(vectors, parts, strict=True)]
    return products


def _by_stage(
    stages: Sequence[_Stage], tensors: Sequence[Tensor]
) -> Iterator[tuple[_Stage, tuple[list[Tensor], list[Tensor], list[Tensor]]]]:
    """Give each stage with its vectors, operands and weights."""
    rest = iter(tensors)
    for stage in stages:
        vectors = list(islice(rest, stage.vectors))
        operands = list(islice(rest, stage.operands))
        yield stage, (vectors, operands, list(islice(rest, len(stage.inputs_last))))


def _gathered(tensors: Sequence[Tensor | None], lengths: Array, dtype: Any) -> Array:
    """Copy small dense tensors one behind the other, zeros for None."""
    addresses = np.array([0 if tensor is None else tensor.data_ptr() for tensor in tensors])
    values: Array = np.empty(lengths.sum(), dtype)
    loops: Any = _loops()
    loops.gather(addresses, lengths, values)
    return values


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
