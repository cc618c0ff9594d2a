"""A network's forward pass as the Euler steps it takes, any part of which can run by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_leaves, tree_map

from timestepper.errors import StabilityError, first_line
from timestepper.stability.apart import copy_of, outside_modes
from timestepper.stepping import Branch, find_branches, fold
from timestepper.stepping.operation import PART, Made, Operation, of_kinds
from timestepper.stepping.operators import ADDITIONS, HOMOGENEOUS
from timestepper.stepping.stages import TimeStepping
from timestepper.stepping.watch import watch

READING = of_kinds("_local_scalar_dense.default equal.default nonzero.default")
"""Operations by which a forward pass may decide for itself what it does."""

Values = dict[int, Any]
"""Results of operations by their index; those of an operation with several results as a list."""


@dataclass(frozen=True, slots=True)
class Step:
    """One Euler step y_{d+1} = y_d + Δt_d ⊗ F(y_d, w_d), by the indices of operations.

    Attributes:
        branch: the branch that it takes.
        start: what made y_d.
        end: what made Δt_d ⊗ F(y_d, w_d).
        shortcut: what made what that is added to: y_d itself, or its projection.
        addition: the addition.
        state: what made y_{d+1}: the addition, or the activation that follows it.
        is_plain: y_d is added as it is, so that I + Δt·J exists (paper Eq. 4).
    """

    branch: Branch
    start: int
    end: int
    shortcut: int
    addition: int
    state: int
    is_plain: bool


class UnrolledNetwork:
    """A plain network in eval mode, its pass on one example watched and cut into Euler steps.

    Args:
        network: plain; an attached one is given as a folded copy, see :func:`unroll`.
        example_input: of the shape of what it will be given, ``(n, channels, height, width)`` for
            images.
        branches: the branches, as :func:`timestepper.find_branches` gives them.

    Raises:
        NoBranchError: the forward pass failed.
        StabilityError: the pass can't be repeated from what was watched, or a branch joins the
            state by something else than an addition.
    """

    def __init__(
        self, network: nn.Module, example_input: Tensor, branches: Iterable[Branch]
    ) -> None:
        self.network = network
        self.example_shape = example_input.shape
        with sdpa_kernel(SDPBackend.MATH):
            self.trace = watch(network, (example_input,), {})
        self._refuse_other_passes(example_input)
        self.steps = sorted(
            (step for branch in branches for step in self._steps(branch)),
            key=lambda step: step.addition,
        )

    @property
    def input_state(self) -> int:
        """What made y_0."""
        return min(step.start for step in self.steps)

    @property
    def final_state(self) -> int:
        """What made y_D."""
        return self.steps[-1].state

    @cached_property
    def output(self) -> int:
        """What made the output: of what the network returns the newest that all steps lead to.

        Raises:
            StabilityError: there is none.
        """
        for index in sorted(self.trace.returned, reverse=True):
            if all(self._comes_from(index, step.state) for step in self.steps):
                return index
        raise StabilityError(
            f"nothing that {type(self.network).__name__} returns comes from all of its branches: "
            "name those that lead to one output with branches=[...]"
        )

    @cached_property
    def stages(self) -> dict[str, list[Step]]:
        """The steps by stage, in order of depth."""
        stages: dict[str, list[Step]] = {}
        for step in self.steps:
            stages.setdefault(step.branch.stage, []).append(step)
        return stages

    @torch.no_grad()
    def evaluate(self, inputs: Tensor, tensors: Mapping[str, Tensor] | None = None) -> Values:
        """Compute the states, what the network returns, and all that they are made of.

        Args:
            inputs: of the example's shape.
            tensors: parameters to use instead of the network's own, by name.

        Raises:
            StabilityError: the input has another shape than the example.
        """
        if inputs.shape != self.example_shape:
            raise StabilityError(
                f"the input has shape {tuple(inputs.shape)}, but the network was unrolled for "
                f"{tuple(self.example_shape)}"
            )
        ends = [*self.trace.returned, *(step.state for step in self.steps)]
        return self.run({0: inputs}, 0, ends, tensors)

    def run(
        self,
        known: Values,
        start: int,
        ends: Sequence[int],
        tensors: Mapping[str, Tensor] | None = None,
    ) -> Values:
        """Compute what lies between one operation and others, anew.

        Args:
            known: the start's result, and those of what is used but doesn't depend on it.
            start: index of the operation whose result is given.
            ends: indices of those whose results are wanted.
            tensors: parameters to use instead of the network's own, by name.

        Returns:
            The results of all operations between, start and ends included.
        """
        tensors = tensors or {}
        # An end that doesn't depend on the start is as it was.
        values: Values = {index: known[index] for index in (start, *ends) if index in known}
        for operation in self.between(start, ends):
            values[operation.index] = self._call(operation, known, values, tensors)
        return values

    def between(self, start: int, ends: Sequence[int]) -> list[Operation]:
        """List the operations from start, left out, to ends, in order."""
        wanted = 0
        for end in ends:
            wanted |= self.trace.operations[end].ancestors
        return [
            operation
            for operation in self.trace.operations[start + 1 : max(ends, default=start) + 1]
            if wanted >> operation.index & 1 and operation.ancestors >> start & 1
        ]

    def function(
        self, known: Values, start: int, end: int, tensors: Mapping[str, Tensor] | None = None
    ) -> Callable[[Tensor], Tensor]:
        """Make the function from one operation's result to another's; all else is as known."""

        def evaluate(value: Tensor) -> Tensor:
            result: Tensor = self.run(known | {start: value}, start, [end], tensors)[end]
            return result

        return evaluate

    def _call(
        self, operation: Operation, known: Values, values: Values, tensors: Mapping[str, Tensor]
    ) -> Any:
        writes = operation.kind.partition(".")[2].partition(".")[0].endswith("_")

        def put(leaf: Any) -> Any:
            if isinstance(leaf, Made):
                value = (
                    values[leaf.operation] if leaf.operation in values else known[leaf.operation]
                )
                return value.clone() if writes else value
            return self.trace.rebind(leaf, tensors)

        args, kwargs = tree_map(put, (operation.call.args, operation.call.kwargs))
        if operation.kind == PART:
            return args[0][args[1]]
        if operation.short_name in ("view", "unsafe_view"):
            # A value of ours may lie in memory in another order.
            return torch.reshape(*args, **kwargs)
        if operation.short_name == "hardsigmoid":
            # PyTorch's own has no second derivative, which products with Jacobians need.
            return (args[0] / 6 + 0.5).clamp(0, 1)
        result = operation.call.operator(*args, **kwargs)
        if isinstance(result, list):
            return result
        return tree_leaves(result)[0]

    def _refuse_other_passes(self, example_input: Tensor) -> None:
        """Compare the repeated pass with the network's own."""
        with torch.no_grad():
            leaves = tree_leaves(self.network(example_input.clone()))
        outputs = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        for operation in self.trace.operations:
            if operation.kind in READING:
                raise StabilityError(
                    f"{operation.module or 'the network'} reads numbers out of its features, which "
                    "can't be followed"
                )
        if not all(output.isfinite().all() for output in outputs):
            bad = [n for n, p in self.network.state_dict().items() if not p.isfinite().all()]
            reason = f": {bad[0]} holds NaN or infinite values" if bad else ""
            raise StabilityError(f"the network's outputs are not finite{reason}")
        with torch.no_grad():
            values = self.run({0: example_input}, 0, list(self.trace.returned))
        repeated = [values[index] for index in self.trace.returned]
        if not repeated or not all(any(_agree(one, o) for o in outputs) for one in repeated):
            raise StabilityError(
                f"the forward pass of {type(self.network).__name__} can't be repeated operation by "
                "operation (it is random in eval mode, or uses several results of one operation)"
            )

    def _steps(self, branch: Branch) -> list[Step]:
        """Find the steps that a branch takes: one, or several where blocks are shared."""
        scaled = [
            operation.index
            for operation in self.trace.operations
            if any(self._is_scaled(branch, *name) for name in operation.parameters)
            or any(self._is_scaled(branch, *n) for c in operation.computed for n in c.parameters)
        ]
        steps: dict[int, Step] = {}
        for index in scaled:
            step = self._join(branch, index, scaled)
            steps[step.addition] = step
        return list(steps.values())

    @staticmethod
    def _is_scaled(branch: Branch, owner: str, parameter: str) -> bool:
        return any(name in (owner, f"{owner}.{parameter}".lstrip(".")) for name in branch.scaled)

    def _join(self, branch: Branch, index: int, scaled: Sequence[int]) -> Step:
        """Follow what is scaled to the addition of what it was not computed for."""
        operations = self.trace.operations
        # Shared blocks are used again further down: those uses have the earlier ones for ancestors.
        peers = [i for i in scaled if i == index or not self._comes_from(index, i)]
        has_sum = False
        for operation in operations[index + 1 :]:
            if operation.kind not in ADDITIONS or not self._comes_from(operation.index, index):
                continue
            ends = [i for i in operation.inputs if any(self._comes_from(i, s) for s in peers)]
            others = [i for i in operation.inputs if i not in ends]
            has_sum |= len(ends) > 1
            if len(ends) != 1 or len(others) != 1:
                continue
            if not operation.plain_sum:
                raise StabilityError(
                    f"branch {branch.name} joins the state by a sum with a factor (alpha) or of "
                    "another shape: write x + f, with f of the shape of x"
                )
            state = operation
            consumers = [operations[i] for i in operation.consumers]
            if len(consumers) == 1 and consumers[0].kind in HOMOGENEOUS:
                state = consumers[0]
            start = self._dominator(operation)
            is_plain = start == others[0] and operations[start].shape == operations[ends[0]].shape
            return Step(branch, start, ends[0], others[0], operation.index, state.index, is_plain)
        reason = (
            "several additions: write x + (f + g) instead of x + f + g"
            if has_sum
            else "something else than an addition (concatenation, say): Proposition 1 is about "
            "residual networks"
        )
        raise StabilityError(f"branch {branch.name} joins the state by {reason}")

    def _comes_from(self, index: int, source: int) -> bool:
        return bool(self.trace.operations[index].ancestors >> source & 1)

    def _dominator(self, addition: Operation) -> int:
        """Find the newest result through which everything has to go that is added."""
        earliest = addition.index
        for index in range(addition.index, -1, -1):
            if not self._comes_from(addition.index, index):
                continue
            if index == earliest and index != addition.index:
                return index
            earliest = min(earliest, *self.trace.operations[index].inputs)
        return 0


def _agree(one: Tensor, other: Tensor) -> bool:
    same_kind = one.shape == other.shape and one.dtype == other.dtype
    return same_kind and torch.allclose(one, other, rtol=1e-4, atol=1e-5)


@outside_modes()
def unroll(
    network: nn.Module, example_input: Tensor, branches: Iterable[Branch] | None = None
) -> UnrolledNetwork:
    """Unroll a folded copy of a network in eval mode.

    Args:
        network: attached, folded or plain; it stays as it is.
        example_input: of the shape of what it will be given, ``(n, channels, height, width)`` for
            images.
        branches: the branches, instead of having them found; of an attached network its own.

    Raises:
        NoBranchError: no residual branch was found.
        StabilityError: there is no input, the network or a part of it is in training mode, it can't
            be copied or does not take such inputs, its outputs aren't finite, or its pass can't be
            repeated.
    """
    require_inputs(example_input)
    training = [name or "the network" for name, part in network.named_modules() if part.training]
    if training:
        raise StabilityError(
            f"{training[0]} is in training mode, in which batch norm uses each batch's own "
            "statistics: call network.eval() first"
        )
    plain = copy_of(network)
    try:
        with torch.no_grad():
            plain(example_input.clone())
    except Exception as error:  # whatever a network raises
        reason = first_line(error)
        raise StabilityError(
            f"the network does not take inputs of shape {tuple(example_input.shape)}: {reason}"
        ) from error
    if hasattr(plain, "time_stepping"):
        stepping = plain.time_stepping
        assert isinstance(stepping, TimeStepping)
        branches = stepping.branches if branches is None else branches
        fold(plain)
    if branches is None:
        branches = find_branches(plain, example_input, skip_unfoldable=True)
    return UnrolledNetwork(plain.requires_grad_(False), example_input, branches)


def require_inputs(inputs: Tensor) -> None:
    """Raise StabilityError for an empty batch."""
    if not len(inputs):
        raise StabilityError("no input was given: stability is measured at inputs")


def unstepped(network: nn.Module) -> dict[str, Tensor]:
    """Give an attached network's parameters as they are without step sizes, by name."""
    return {
        name: tensor.detach()
        for name, tensor in network.state_dict().items()
        if not name.startswith("time_stepping.")
    }
