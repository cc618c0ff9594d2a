"""Follow channels through operations, by labels.

A tensor with the values 1 … C along the channels goes through the operations that a
result goes through.
"""

from __future__ import annotations

import torch
from torch import Tensor

from timestepper.stepping.operation import DIVIDING, PART, Operation
from timestepper.stepping.operators import (
    HOMOGENEOUS,
    MOVING,
    POOLING,
    PRODUCTS,
    QUOTIENTS,
    REDUCING,
    VIEWS,
)
from timestepper.stepping.watch import Trace


def numbered(shape: torch.Size, axis: int, *, single: bool) -> Tensor:
    """Number the channels 1 … C along an axis; with ``single`` all are 1."""
    count = 1 if single else shape[axis]
    numbers = torch.arange(1, count + 1, dtype=torch.float64, device="cpu")
    return numbers.view(-1, *(1 for _ in shape[axis + 1 :])).expand(shape)


def passed(trace: Trace, operation: Operation, labels: Tensor) -> Tensor | None:
    """Take labels through an operation with one input, or None where a factor does not pass."""
    if operation.uses_input != 1:  # A square, say.
        return None
    if operation.kind in MOVING:
        if operation.kind == "aten.constant_pad_nd.default" and any(operation.call.args[2:]):
            return None
        if operation.kind == "aten._to_copy.default":
            return labels  # bfloat16 can't count beyond 256.
        return trace.replay(operation, labels)
    if operation.kind in DIVIDING:
        return labels  # Of the whole; its parts are operations of their own.
    if operation.kind == PART:
        whole = trace.operations[operation.inputs[0]]
        part: Tensor = trace.replay(whole, labels)[operation.call.args[1]]
        return part
    if operation.kind in HOMOGENEOUS:
        return trace.replay(operation, labels)
    if operation.kind in REDUCING:
        first = labels
        args = operation.call.args
        for axis in (args[1] if len(args) > 1 else ()) or range(labels.ndim):
            first = first.narrow(axis, 0, 1)
        # One result can't hold several factors.
        alike = torch.equal(first.expand_as(labels), labels)
        return trace.replay(operation, labels) if alike else None
    if operation.kind in PRODUCTS or operation.kind in QUOTIENTS:
        if operation.kind in QUOTIENTS and not trace.is_input(operation, 0):
            return None
        return labels.expand(operation.shape)
    if operation.kind in POOLING:
        # Of (N, C, L), 2-D pooling takes C for a dimension of the map.
        channels = labels
        for axis in range(-_map_dimensions(operation), 0):
            channels = channels.narrow(axis, 0, 1)
        if not torch.equal(channels.expand_as(labels), labels):
            return None
        return channels.expand(operation.shape)
    return None


def before_views(trace: Trace, operation: Operation) -> Operation:
    """Go back through views that only this operation sees."""
    source = trace.operations[operation.inputs[0]]
    while source.kind in VIEWS and len(source.consumers) == 1:
        source = trace.operations[source.inputs[0]]
    return source if len(source.consumers) == 1 else operation


def _map_dimensions(pooling: Operation) -> int:
    """Count the dimensions that a pooling operation works on, the last ones: 2 of avg_pool2d."""
    return next(count for count in (1, 2, 3) if f"{count}d" in pooling.kind)
