"""What else reads a branch's scaled results: gates, whose first layers are divided."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from timestepper.errors import FoldError
from timestepper.stepping.branches import READABLE
from timestepper.stepping.labels import numbered, passed
from timestepper.stepping.operation import Made, Operation
from timestepper.stepping.operators import (
    CONCATENATIONS,
    CONVOLUTIONS,
    MATRIX_PRODUCTS,
    MIXTURES,
    PRODUCTS,
    as_its_module_does,
)
from timestepper.stepping.watch import Trace


def find_divided(
    trace: Trace,
    scaled: Mapping[int, Tensor],
    joins: Collection[int],
    name: str,
    channels: tuple[int, int],
    single: bool,
) -> dict[str, str]:
    """Follow scaled results that leave the branch's way up to layers that can be divided.

    Args:
        trace: the watched pass.
        scaled: labels of the branch's scaled results, by operation; zero is what takes no step.
        joins: the operations that join the branch to the state.
        name: the branch's name, for messages.
        channels: the labels that take step sizes: (first - 1, last).
        single: all channels take the same one.

    Returns:
        Names of the layers, each with the module in whose forward it is used.

    Raises:
        FoldError: something else reads a scaled result.
    """
    labels = dict(scaled)
    _require_inside(trace, labels, name)
    for operation in map(trace.operations.__getitem__, scaled):
        if _multiplies_scaled(operation, labels):
            raise _refuse(operation, name)
    divided: dict[str, str] = {}
    # In order of execution, so that all that goes into an operation is known before it.
    on_the_way = scaled.keys() | set(joins)
    ahead = [
        consumer
        for index in scaled
        for consumer in trace.operations[index].consumers
        if consumer not in on_the_way
    ]
    heapq.heapify(ahead)
    while ahead:
        operation = trace.operations[heapq.heappop(ahead)]
        if operation.index in labels and operation.index not in on_the_way:
            continue
        read = [labels[index] for index in operation.inputs if index in labels]
        if not any(one.any() for one in read):
            continue
        owner = _divided(trace, operation, read[0], channels, single)
        if owner is not None:
            divided[owner] = operation.module
            continue
        result = passed(trace, operation, read[0])
        if single and operation.kind in CONCATENATIONS and len(read) == operation.uses_input:
            result = numbered(operation.shape, 0, single=True)
        # Coming back to the way, a scaled result would count twice.
        if result is None or operation.parameters or operation.index in on_the_way:
            raise _refuse(operation, name)
        labels[operation.index] = result
        _require_inside(trace, {operation.index: result}, name)
        for consumer in operation.consumers:
            heapq.heappush(ahead, consumer)
    return divided


def _multiplies_scaled(operation: Operation, labels: Mapping[int, Tensor]) -> bool:
    """Tell whether a product has scaled values on both sides: it would take the step twice."""
    if operation.kind not in PRODUCTS | MIXTURES:
        return False
    sides = [side.operation for side in operation.call.args if isinstance(side, Made)]
    return sum(side in labels and bool(labels[side].any()) for side in sides) > 1


def _refuse(operation: Operation, name: str) -> FoldError:
    return FoldError(
        f"branch {name}: its result is used elsewhere too (by {operation.short_name} "
        f"in {operation.module or 'the network itself'}), so a step size there would "
        "change more than the branch"
    )


def _require_inside(trace: Trace, labels: Mapping[int, Tensor], name: str) -> None:
    """Make sure that no scaled result leaves the network."""
    if any(labels[index].any() for index in trace.returned & labels.keys()):
        raise FoldError(
            f"branch {name}: the network returns its result too, so a step size there would "
            "change more than the branch"
        )


def _divided(
    trace: Trace, operation: Operation, labels: Tensor, channels: tuple[int, int], single: bool
) -> str | None:
    """Name the layer of an operation that takes each channel in a column of its own."""
    for owner, parameter in operation.parameters:
        module = trace.network.get_submodule(owner)
        if parameter != "weight" or not isinstance(module, READABLE):
            continue
        if not as_its_module_does(operation, module):
            continue
        if operation.kind in CONVOLUTIONS:
            axis, activation = 1, 0
        elif operation.kind in MATRIX_PRODUCTS:
            axis, activation = labels.ndim - 1, len(operation.call.args) - 2
        else:
            continue
        expected = numbered(labels.shape, axis, single=single)
        expected = expected.where((expected > channels[0]) & (expected <= channels[1]), 0)
        if (
            operation.uses_input == 1
            and trace.is_input(operation, activation)
            and torch.equal(labels, expected)
        ):
            return owner
    return None
