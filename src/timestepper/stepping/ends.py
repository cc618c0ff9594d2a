"""How a residual branch ends: which parameters scale its result, and which must not notice.

Going back from the addition, every path leads through operations that a positive factor for each
channel passes (reshaping, pooling, ReLU, a gate's product) to an affine operation whose parameters
take the factor. What else reads the scaled values on the way, a squeeze-and-excitation gate, say,
gets its first layer divided by the same factors.

Channels are followed by labels: a tensor with the values 1 … C along the channels of the affine
operation's result goes through the same operations as the result itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from timestepper.errors import FoldError
from timestepper.stepping.branches import BY_HOOKS, Branch
from timestepper.stepping.factors import SCALABLE, check_scalable
from timestepper.stepping.gates import find_divided
from timestepper.stepping.labels import before_views, numbered, passed
from timestepper.stepping.operation import Operation
from timestepper.stepping.operators import (
    ADDITIONS,
    CHANNELS_LAST,
    CHANNELS_SECOND,
    CONCATENATIONS,
    CONVOLUTIONS,
    DIFFERENCES,
    MATRIX_PRODUCTS,
    MIXTURES,
    MOVING,
    PASSING,
    PRODUCTS,
    as_its_module_does,
    has_other_bias,
)
from timestepper.stepping.watch import Trace


@dataclass(frozen=True, slots=True)
class End:
    """What takes a branch's step sizes; see :class:`~timestepper.stepping.branches.Branch`.

    ``uses`` has (module name, parameter name) of all that is scaled or divided, ``ends`` the
    indices of the operations that apply what is scaled, ``way`` those of all operations from there
    to the branch's result. ``channels`` has one range for all that is scaled or divided; it is
    None where that is all channels. ``single``: it takes one step size for all channels.
    """

    scaled: tuple[str, ...]
    divided: tuple[str, ...]
    inside: tuple[str, ...]
    uses: frozenset[tuple[str, str]]
    ends: frozenset[int]
    way: frozenset[int]
    channels: tuple[int, int] | None
    single: bool

    def branch(self, name: str, weights: tuple[str, ...]) -> Branch:
        """Make the branch that ends so; its stage is left open."""
        channels = (self.channels,) * len(self.inside) if self.channels else ()
        return Branch(
            name, "", weights, self.scaled, self.divided, self.inside, channels, self.single
        )


class EndFinder:
    """Finds the end of one branch.

    Args:
        trace: the watched pass.
        joins: the operations that join the branch to the state: the residual additions, mostly one.
        bodies: the operations that made what they join.
        starts: the operations whose results the branch was computed from.
        name: the branch's name, for messages.
        single: look for a place for one step size for all channels, where one for each has none.
            Then all labels are 1.
    """

    def __init__(
        self,
        trace: Trace,
        joins: Iterable[int],
        bodies: Iterable[int],
        starts: Iterable[int],
        name: str,
        *,
        single: bool = False,
    ) -> None:
        self.trace = trace
        self.single = single
        self.joins = frozenset(joins)
        self.bodies = frozenset(bodies)
        self.starts = frozenset(starts)
        self.name = name
        # What is found, with the module in whose forward it is used.
        self.scaled: dict[str, str] = {}
        self.uses: set[tuple[str, str]] = set()
        self.ends: set[int] = set()
        self.labels: dict[int, Tensor] = {}
        # Results that hold a part of the shortcut too, which is not scaled.
        self.mixed: set[int] = set()

    def find(self) -> End:
        """Find the end.

        Raises:
            FoldError: step sizes can't be folded into it exactly.
        """
        self.go_back()
        self._require_alike()
        taken = torch.cat([self.labels[body].unique() for body in self.bodies]).unique()
        taken = taken[taken > 0]  # Zeros are padding.
        first, past = int(taken[0]) - 1, int(taken[-1])
        if len(taken) != past - first:
            raise self._refuse(
                self.trace.operations[min(self.bodies)], "which takes channels from here and there"
            )
        way = frozenset(self.labels)
        for index in self.mixed:
            if not way | self.joins >= set(self.trace.operations[index].consumers):
                raise self._refuse(self.trace.operations[index], "a result used elsewhere too")
        scaled = {
            # Zero is what takes no step size.
            index: labels.where((labels > first) & (labels <= past), 0)
            for index, labels in self.labels.items()
        }
        taking = (first, past)
        divided = find_divided(self.trace, scaled, self.joins, self.name, taking, self.single)
        for index in way:
            is_read = self.ends.intersection(self.trace.operations[index].consumers)
            if is_read or any((owner, "weight") in self.uses for owner in divided):
                raise self._refuse(self.trace.operations[index], "which another of its ends reads")
        widths = [len(self.labels[end].unique()) for end in self.ends if end in self.labels]
        if any(past > width for width in widths):
            raise self._refuse(
                self.trace.operations[min(self.bodies)], "a concatenation of unlike widths"
            )
        whole = all(len(taken) == width for width in widths)
        return End(
            tuple(self.scaled),
            tuple(divided),
            (*self.scaled.values(), *divided.values()),
            frozenset(self.uses).union((owner, "weight") for owner in divided),
            frozenset(self.ends),
            way,
            None if whole else taking,
            self.single,
        )

    def go_back(self) -> None:
        """Find what is to be scaled, without a look at what else reads it."""
        for body in self.bodies:
            operation = self.trace.operations[body]
            try:
                self._go_back(operation)
            except RecursionError:
                raise self._refuse(
                    operation, "after more operations than can be followed"
                ) from None

    def _require_alike(self) -> None:
        """Make sure that what is added to one state takes one step size in each channel."""
        by_shape: dict[torch.Size, Tensor] = {}
        for body in self.bodies:
            labels = self.labels[body]
            if not torch.equal(by_shape.setdefault(labels.shape, labels), labels):
                raise self._refuse(self.trace.operations[body], "a sum of unlike channels")

    def _refuse(self, operation: Operation, why: str = "") -> FoldError:
        if any(own in BY_HOOKS for one in operation.computed for _, own in one.parameters):
            why = "whose weight a hook makes: make pruning or normalisation permanent first"
        why = why or "which step sizes do not fold into exactly"
        return FoldError(
            f"branch {self.name} ends in {operation.short_name} "
            f"(in {operation.module or 'the network itself'}), {why}"
        )

    def _go_back(self, operation: Operation) -> Tensor:
        """Walk back to the affine operations; label their channels, and all on the way."""
        if operation.index in self.labels:
            return self.labels[operation.index]
        if operation.index == 0:
            raise self._refuse(operation, "the network's input")
        # Scaling what a branch starts from would scale the shortcut too.
        if any(self.trace.operations[s].ancestors >> operation.index & 1 for s in self.starts):
            raise self._refuse(operation, "which the branch starts from")
        labels = self._affine(operation)
        if labels is None:
            labels = self._walk_through(operation)
        else:
            self.ends.add(operation.index)
        self.labels[operation.index] = labels
        return labels

    def _walk_through(self, operation: Operation) -> Tensor:
        sources = [self.trace.operations[index] for index in operation.inputs]
        if operation.kind in ADDITIONS | DIFFERENCES:
            if len(sources) == 1 and operation.parameters:
                return self._bias(operation, sources[0])
            if len(sources) == 2 and operation.plain_sum:
                return self._sum(operation, sources)
        if operation.kind in CONCATENATIONS and operation.uses_input == len(operation.call.args[0]):
            return self._concatenation(operation)
        if operation.kind in PRODUCTS and len(sources) == 2:
            return self._one_of(operation, sources).expand(operation.shape)
        if operation.kind in MIXTURES and operation.uses_input == 2:
            return self._mixture(operation)
        if len(sources) == 1 and operation.kind in PASSING:
            labels = passed(self.trace, operation, self._go_back(sources[0]))
            if sources[0].index in self.mixed:
                self.mixed.add(operation.index)
                if operation.kind not in MOVING | PRODUCTS:
                    labels = None
            if labels is not None:
                return labels
        raise self._refuse(operation)

    def _is_start_moved(self, index: int) -> bool:
        """Tell whether a result is a start of the branch, its values at most moved."""
        while index not in self.starts and self.trace.operations[index].kind in MOVING:
            index = self.trace.operations[index].inputs[0]
        return index in self.starts

    def _sum(self, operation: Operation, sources: list[Operation]) -> Tensor:
        """Scale both sides alike, but not the start's own."""
        computed = [source for source in sources if not self._is_start_moved(source.index)]
        if not computed:
            raise self._refuse(operation)
        labels = [self._go_back(source) for source in computed]
        if not torch.equal(labels[0], labels[-1]):
            raise self._refuse(operation, "a sum of unlike channels")
        if len(computed) < 2 or self.mixed & {source.index for source in computed}:
            self.mixed.add(operation.index)
        return labels[0]

    def _concatenation(self, operation: Operation) -> Tensor:
        """Set the labels of what is computed side by side; the start's own part is as they are."""
        indices = [part.operation for part in operation.call.args[0]]
        labels = {
            index: self._go_back(self.trace.operations[index])
            for index in indices
            if not self._is_start_moved(index)
        }
        axis = operation.call.args[1] if len(operation.call.args) > 1 else 0
        if not labels:
            raise self._refuse(operation)
        if len(labels) < len(indices) or self.mixed & set(labels):
            self.mixed.add(operation.index)
            whole = next(iter(labels.values())).narrow(axis, 0, 1).expand(operation.shape)
            for known in labels.values():
                if not torch.equal(known, whole.narrow(axis, 0, known.shape[axis])):
                    raise self._refuse(operation, "a concatenation of unlike channels")
            return whole
        return torch.cat([labels[index] for index in indices], axis)

    def _bias(self, operation: Operation, source: Operation) -> Tensor:
        """Scale a bias of the network's own, and what it is added to.

        One bias for all channels takes one step size for all of them, and so does the one scale
        that it must come with.
        """
        if not self.single:
            raise self._refuse(operation)
        ((owner, name), *_), (shape, *_) = operation.parameters, operation.parameter_shapes
        if shape.numel() == 1 and source.kind in PRODUCTS and len(source.parameters) == 1:
            scale, (size,) = source.parameters[0], source.parameter_shapes
            if size.numel() == 1 and source.consumers == [operation.index]:
                self.ends.add(source.index)
                self._scale(scale, operation)
                self._scale((owner, name), operation)
                return numbered(operation.shape, 0, single=True)
        raise self._refuse(operation)

    def _scale(self, parameter: tuple[str, str], operation: Operation) -> None:
        self.uses.add(parameter)
        self.scaled[".".join(filter(None, parameter))] = operation.module

    def _one_of(self, operation: Operation, sources: list[Operation]) -> Tensor:
        """A product takes the factor through either side, the other is a gate."""
        refusal: FoldError | None = None
        for source in sorted(sources, key=lambda source: -source.shape.numel()):
            before = dict(self.scaled), set(self.uses), set(self.ends), dict(self.labels)
            try:
                labels = self._go_back(source)
                if source.index in self.mixed:
                    raise self._refuse(operation)
                return labels
            except FoldError as error:
                self.scaled, self.uses, self.ends, self.labels = before
                refusal = refusal or error
        assert refusal is not None
        raise refusal

    def _mixture(self, operation: Operation) -> Tensor:
        """Take the factor through the values that attention weighs, whatever its weights are."""
        source = operation.call.args[1].operation
        values = self._go_back(self.trace.operations[source])
        if source in self.mixed:
            self.mixed.add(operation.index)
        row = values.narrow(-2, 0, 1)
        if not torch.equal(row.expand_as(values), values):
            raise self._refuse(operation)
        return row.expand(operation.shape)

    def _affine(self, operation: Operation) -> Tensor | None:
        """Label the result of an operation that ends the branch, and note its parameters."""
        if operation.kind in PRODUCTS and len(operation.inputs) == 1:
            return self._vector_of_scales(operation)
        if operation.kind in CONVOLUTIONS and operation.computed:
            return self._computed_weight(operation)
        for owner, parameter in operation.parameters:
            module = self.trace.network.get_submodule(owner)
            source = operation
            if operation.kind in ADDITIONS and parameter == "bias" and len(operation.inputs) == 1:
                # A linear layer may come as a product and a sum.
                source = before_views(self.trace, operation)
                if (owner, "weight") not in source.parameters:
                    continue
            elif parameter != "weight":
                continue
            if source.kind in CHANNELS_LAST:
                axis = len(operation.shape) - 1
            elif source.kind in CHANNELS_SECOND:
                axis = 1
            else:
                continue
            if not as_its_module_does(source, module):
                continue
            used = {name for name, _ in module.named_parameters(recurse=False)}
            applied = (*operation.parameters, *source.parameters)
            if used != {name for place, name in applied if place == owner}:
                continue
            if has_other_bias(source, owner):
                continue
            if isinstance(module, SCALABLE):
                check_scalable(module, owner)
                names = [owner]
            elif source.kind not in CONVOLUTIONS and source.kind not in MATRIX_PRODUCTS:
                names = [f"{owner}.{name}" for name in sorted(used, reverse=True)]
            else:
                raise self._refuse(operation, f"a {type(module).__name__}")
            self.uses.update((owner, name) for name in used)
            self.scaled.update(dict.fromkeys(names, operation.module))
            labels = numbered(operation.shape, axis, single=self.single)
            # An instance norm sets the channels of all images side by side.
            if isinstance(module, nn.modules.instancenorm._InstanceNorm):
                labels = (labels - 1) % module.num_features + 1
            return labels
        return None

    def _computed_weight(self, operation: Operation) -> Tensor | None:
        """End in a convolution whose weight is computed (standardised, normalised) with a gain."""
        biases = [(owner, name) for owner, name in operation.parameters if name == "bias"]
        if operation.call.args[6] or (operation.call.args[2] is not None and not biases):
            return None
        gain = operation.computed[0].gain(self.trace.network)
        if gain is None:
            return None
        for place in (gain, *biases):
            self._scale(place, operation)
        return numbered(operation.shape, 1, single=self.single)

    def _vector_of_scales(self, operation: Operation) -> Tensor | None:
        """End in a product with a parameter that has one value for each channel."""
        for (owner, name), shape in zip(
            operation.parameters, operation.parameter_shapes, strict=True
        ):
            long = [axis for axis, size in enumerate(shape) if size > 1]
            if len(long) != 1:
                continue
            axis = long[0] - len(shape) + len(operation.shape)
            if shape[long[0]] != operation.shape[axis] or self._is_other_axis(operation, axis):
                continue
            self._scale((owner, name), operation)
            return numbered(operation.shape, axis, single=self.single)
        return None

    def _is_other_axis(self, operation: Operation, axis: int) -> bool:
        """Tell whether all channels have the same values along an axis, that of tokens, say."""
        if self.single:
            return False
        before = dict(self.scaled), set(self.uses), set(self.ends), dict(self.labels)
        mixed = set(self.mixed)
        try:
            labels = self._go_back(self.trace.operations[operation.inputs[0]])
        except FoldError:
            return False
        finally:
            self.scaled, self.uses, self.ends, self.labels = before
            self.mixed = mixed
        first = labels.narrow(axis, 0, 1)
        return labels.shape == operation.shape and torch.equal(first.expand_as(labels), labels)
