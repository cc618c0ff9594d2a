"""Find residual additions in a watched pass, and describe what each adds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from torch import nn

from timestepper.errors import FoldError
from timestepper.stepping.branches import READABLE, Branch, is_pointwise, weight_of
from timestepper.stepping.ends import End, EndFinder
from timestepper.stepping.operation import Made, Operation
from timestepper.stepping.operators import (
    ADDITIONS,
    CONCATENATIONS,
    CONVOLUTIONS,
    HOMOGENEOUS,
    JOINING,
    MATRIX_PRODUCTS,
    MOVING,
    POOLING,
    PRODUCTS,
    QUOTIENTS,
    REDUCING,
)
from timestepper.stepping.watch import Trace

# Attention is told from an MLP of the same shapes.
ATTENDING = ("bmm", "baddbmm", "softmax", "scaled_dot_product")


def residuals(trace: Trace) -> Iterator[Finding]:
    """Yield what each residual addition, or several at once, joins to the state."""
    found: dict[int, Finding] = {}
    for addition in trace.operations:
        if addition.kind not in ADDITIONS or len(addition.inputs) != 2 or not addition.plain_sum:
            continue
        finding = _with_another(trace, addition, found) or _residual(trace, addition)
        if finding is not None:
            found[addition.index] = finding
    yield from dict.fromkeys(found.values())


def unread_joins(trace: Trace) -> Iterator[Operation]:
    """Yield what joins a state to something computed from it, but not as ``x + f`` does.

    A difference, a sum with a factor, a blend, or a branch's result of another shape.
    """
    for operation in trace.operations:
        is_understood = operation.kind in ADDITIONS and operation.plain_sum
        if operation.kind not in JOINING or len(operation.inputs) != 2 or is_understood:
            continue
        for state, result in (operation.inputs, operation.inputs[::-1]):
            if trace.newest_common(state, result) == state and trace.modules_between(
                state, result, READABLE
            ):
                yield operation


def _residual(trace: Trace, addition: Operation) -> Finding | None:
    """Tell whether a sum of two is a shortcut and a branch."""
    first, second = addition.inputs
    common = trace.newest_common(first, second)
    if common is None or first == second:
        return None
    weights = {end: len(trace.modules_between(common, end, READABLE)) for end in (first, second)}
    shortcut, body = sorted((first, second), key=lambda end: (end != common, weights[end]))
    # Two long paths of any lengths are two branches of an ordinary block.
    if weights[body] > weights[shortcut] and _is_shortcut(trace, common, shortcut):
        return Finding(trace, addition, trace.operations[body], common)
    return None


def _with_another(
    trace: Trace, addition: Operation, found: Mapping[int, Finding]
) -> Finding | None:
    """Let a finding ``x + f`` that is only used in ``x + f + g`` have g, computed from x, too."""
    for index, another in (addition.inputs, addition.inputs[::-1]):
        is_used = index in trace.returned or trace.operations[index].consumers != [addition.index]
        if index not in found or another in found or is_used:
            continue
        finding = found[index]
        if trace.modules_between(finding.common, another, READABLE):
            finding.join([Finding(trace, addition, trace.operations[another], finding.common)])
            return finding
    return None


def _is_shortcut(trace: Trace, start: int, end: int) -> bool:
    """Tell whether a path moves or pools values at most, or projects them with one layer.

    Only a projection may have an activation (pre-activation networks), and it has to be made for
    the addition alone.
    """
    layers, activations, is_joined = 0, 0, False
    for operation in trace.between(start, end):
        if operation.parameters and operation.uses_input == 1:
            layers += operation.kind in CONVOLUTIONS | MATRIX_PRODUCTS
        elif operation.kind in HOMOGENEOUS | REDUCING:
            activations += "relu" in operation.kind
        elif operation.kind in CONCATENATIONS:
            is_joined |= not _pads(operation)
        elif operation.kind not in MOVING | POOLING and not (
            operation.kind in PRODUCTS | QUOTIENTS and operation.uses_input == 1
        ):
            return False
    if layers == 1 and not is_joined:
        return len(trace.operations[end].consumers) == 1
    return layers + activations == 0


def _pads(operation: Operation) -> bool:
    """Tell whether all but one of what is concatenated are zeros (which meta tensors may be)."""
    parts = operation.call.args[0]
    known = [part for part in parts if not isinstance(part, Made)]
    return len(parts) - len(known) == 1 and all(part.is_meta or not part.any() for part in known)


class Finding:
    """One residual addition and what is to be known of its branch."""

    def __init__(self, trace: Trace, addition: Operation, body: Operation, common: int) -> None:
        self.trace = trace
        self.addition = addition
        self.body = body
        self.site = addition.module
        self.common = common
        self.layers = list(trace.modules_between(common, body.index, READABLE))
        self.shape = addition.shape
        self.end: End | None = None
        self.together = [self]

    @cached_property
    def ends(self) -> frozenset[int]:
        """The operations that the branch ends in; none where it does not fold."""
        finder = EndFinder(self.trace, *self._members(), self.own_name)
        try:
            finder.go_back()
        except FoldError:
            return frozenset()
        return frozenset(finder.ends)

    def feeds(self, other: Finding) -> bool:
        """Tell whether the state that an addition of this one makes goes into another's body."""
        into = [one.body.ancestors for one in other.together]
        return any(body >> one.addition.index & 1 for one in self.together for body in into)

    def join(self, others: Iterable[Finding]) -> None:
        """Make one branch of this and others that end in the same operations."""
        self.together += [one for finding in others for one in finding.together]
        layers = [layer for one in self.together for layer in one.layers]
        self.layers = list(dict.fromkeys(layers))

    def _members(self) -> tuple[list[int], list[int], list[int]]:
        """List additions, bodies and starts of all that is joined."""
        return (
            [one.addition.index for one in self.together],
            [one.body.index for one in self.together],
            [one.common for one in self.together],
        )

    @property
    def own_name(self) -> str:
        """What the names of the branch's layers begin with."""
        return ".".join(common_prefix([name.split(".") for name in self.layers])) or self.layers[0]

    @property
    def read(self) -> dict[str, nn.Module]:
        """The modules that the controller reads: those up to the end, not a gate behind it."""
        assert self.end is not None
        modules: dict[str, nn.Module] = {}
        for index in sorted(self.end.ends):
            for finding in self.together:
                modules |= self.trace.modules_between(finding.common, index, READABLE)
        return _choose_read(modules)

    @property
    def likeness(self) -> Any:
        """What branches of one stage have in common."""
        averages = tuple(weight_of(module)[:, 0].shape for module in self.read.values())
        attends = any(
            operation.short_name.startswith(ATTENDING)
            for operation in self.trace.between(self.common, self.body.index)
        )
        assert self.end is not None
        return averages, self.shape[1:], attends, self.end.single

    def branch(self, *, alone: bool) -> tuple[Branch, frozenset[int]]:
        """Describe the branch; ``alone`` where its module makes no other residual addition.

        Returns:
            The branch, and the operations from what is scaled to where it is added.
        """
        name = self.site if alone and self.site else self.own_name
        joins, bodies, starts = self._members()
        try:
            end = EndFinder(self.trace, joins, bodies, starts, name).find()
        except FoldError as refusal:
            try:
                end = EndFinder(self.trace, joins, bodies, starts, name, single=True).find()
            except FoldError:
                raise refusal from None
        self.end = end
        if not self.read:
            raise FoldError(
                f"branch {name} ends in {end.scaled[0]} before any layer whose weights a "
                "controller can read"
            )
        return end.branch(name, tuple(self.read)), end.way.union(joins)


def _choose_read(modules: dict[str, nn.Module]) -> dict[str, nn.Module]:
    """Leave out what a bottleneck does between its pointwise ends (paper, "Implementations")."""
    names = list(modules)
    pointwise = [is_pointwise(module) for module in modules.values()]
    if len(names) > 2 and pointwise[0] and pointwise[-1] and not all(pointwise):
        names = [names[0], names[-1]]
    return {name: modules[name] for name in names}


def common_prefix(parts: Sequence[Sequence[str]]) -> list[str]:
    """Give what several sequences begin with."""
    prefix = []
    for column in zip(*parts, strict=False):
        if len(set(column)) > 1:
            break
        prefix.append(column[0])
    return prefix
