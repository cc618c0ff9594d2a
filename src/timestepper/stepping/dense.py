"""Find layers that join their features to the state by concatenation, as DenseNet's do.

A state is a concatenation (a_0, a_1, …, a_n) whose every part a_i, i ≥ 1, was computed from the
concatenation of those before it. Each of these parts is one step. Where every reader of a part
begins with a batch norm, a factor on the part itself would be undone in training: the norm divides
it out again. There the step sizes go into the norms' weights and biases for the part's channels,
so that each reader sees the normalised part times its step sizes. Elsewhere they scale the part.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from timestepper.errors import FoldError
from timestepper.stepping.branches import READABLE, Branch, weight_of
from timestepper.stepping.ends import EndFinder
from timestepper.stepping.operation import Made, Operation, of_kinds
from timestepper.stepping.operators import CONCATENATIONS
from timestepper.stepping.watch import Trace

BATCH_NORMS = of_kinds(
    "native_batch_norm.default _native_batch_norm_legit_no_training.default "
    "cudnn_batch_norm.default"
)
SHORTEST = 2
"""Layers of the shortest dense block: a single one is any two-path block with a concatenation."""


@dataclass(frozen=True, slots=True)
class DenseLayer:
    """One step of a dense block, by the indices of operations.

    Attributes:
        start: the concatenation (or the block's input) that it reads.
        features: what made its features.
        block: what made the block's input.
    """

    start: int
    features: int
    block: int


def dense_layers(trace: Trace) -> list[DenseLayer]:
    """List the layers of all dense blocks in order of execution."""
    states = _states(trace)
    by_parts: dict[tuple[int, ...], list[int]] = {}
    for index, parts in states.items():
        by_parts.setdefault(parts, []).append(index)
    layers: dict[int, DenseLayer] = {}
    for parts in by_parts:
        found = []
        for place in range(1, len(parts)):
            before = by_parts.get(parts[:place], [])
            starts = [parts[0], *before] if place == 1 else before
            ancestors = trace.operations[parts[place]].ancestors
            start = next((s for s in reversed(starts) if ancestors >> s & 1), None)
            if start is not None and trace.modules_between(start, parts[place], READABLE):
                found.append(DenseLayer(start, parts[place], parts[0]))
        if SHORTEST <= len(found) == len(parts) - 1:
            layers |= {layer.features: layer for layer in found}
    return [layers[features] for features in sorted(layers)]


def _states(trace: Trace) -> dict[int, tuple[int, ...]]:
    """Map each concatenation along the channels to its parts, those of its parts included."""
    states: dict[int, tuple[int, ...]] = {}
    for operation in trace.operations:
        if operation.kind in CONCATENATIONS and operation.call.args[1:] in ((1,), (-3,)):
            made = operation.call.args[0]
            if all(isinstance(part, Made) for part in made):
                indices = [part.operation for part in made]
                states[operation.index] = tuple(p for i in indices for p in states.get(i, (i,)))
    return states


def describe_dense(trace: Trace, layer: DenseLayer) -> tuple[Branch, Any]:
    """Describe a layer as a branch.

    Returns:
        The branch, its stage left open, and what it has in common with others of its stage.

    Raises:
        FoldError: step sizes do not fold into it exactly.
    """
    weights = trace.modules_between(layer.start, layer.features, READABLE)
    name = _name(trace, layer)
    features = trace.operations[layer.features]
    readers = _readers(trace, layer)
    if readers:
        width = features.shape[1]
        channels = tuple((first, first + width) for first in readers.values())
        branch = Branch(name, "", tuple(weights), tuple(readers), channels=channels)
    else:
        joins = [index for index in features.consumers if index in _states(trace)]
        end = EndFinder(trace, joins, [features.index], [layer.start], name).find()
        often = [owner for owner, parameter in end.uses if trace.uses[owner, parameter] > 1]
        if often:
            raise FoldError(f"dense layer {name}: {often[0]} is used several times")
        branch = end.branch(name, tuple(weights))
    averages = tuple(weight_of(module)[:, 0].shape for module in weights.values())
    return branch, (layer.block, averages, features.shape[1:])


def _name(trace: Trace, layer: DenseLayer) -> str:
    """Name the innermost module that has everything the layer uses."""
    owners = [
        owner.split(".")
        for operation in trace.between(layer.start, layer.features)
        for owner, _ in (
            *operation.parameters,
            *(p for c in operation.computed for p in c.parameters),
        )
    ]
    prefix = owners[0]
    for owner in owners:
        while owner[: len(prefix)] != prefix:
            prefix = prefix[:-1]
    return ".".join(prefix or owners[0])


def _readers(trace: Trace, layer: DenseLayer) -> dict[str, int]:
    """Find the batch norms that read the layer's features, with its first channel in each.

    Returns:
        Nothing where anything else reads them too, the network's output, say, or a norm has no
        weight of its own.
    """
    states = _states(trace)
    if layer.features in trace.returned:
        return {}
    read: dict[int, int] = dict.fromkeys(trace.operations[layer.features].consumers, 0)
    for index, parts in states.items():
        if layer.features in parts:
            before = parts[: parts.index(layer.features)]
            first = sum(trace.operations[part].shape[1] for part in before)
            read |= dict.fromkeys(trace.operations[index].consumers, first)
            if index in trace.returned:
                return {}
    norms = {
        _norm(trace, trace.operations[index]): first
        for index, first in read.items()
        if index not in states
    }
    return {} if None in norms else {norm: first for norm, first in norms.items() if norm}


def _norm(trace: Trace, operation: Operation) -> str | None:
    """Name the batch norm that an operation applies, if it does."""
    for owner, parameter in operation.parameters:
        is_norm = isinstance(trace.network.get_submodule(owner), nn.modules.batchnorm._BatchNorm)
        once = trace.uses[owner, parameter] == 1
        if operation.kind in BATCH_NORMS and parameter == "weight" and is_norm and once:
            return owner
    return None
