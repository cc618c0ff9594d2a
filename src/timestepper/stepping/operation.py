"""One tensor operation of a watched pass, and what it was called with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map


def of_kinds(names: str) -> frozenset[str]:
    """Give operators' full names from short ones, separated by blanks."""
    return frozenset(f"aten.{name}" for name in names.split())


# Operations with several results, each of which is another part of the input.
DIVIDING = of_kinds(
    "split.Tensor split_with_sizes.default unbind.int chunk.default tensor_split.sections"
)
PART = "part"
"""Kind of each of their results, called with the operation and the result's number."""
ALIAS = "aten.alias.default"
"""Kind of what gives back its argument as it is."""
WRITTEN = "a write into a slice"
"""Kind of what a tensor becomes by writes into others that share its memory."""
PADDED = "zero padding"
"""Kind of zeros into a part of which one tensor was written."""


@dataclass(frozen=True, slots=True)
class Made:
    """Stands for an operation's result where another operation is called with it."""

    operation: int


@dataclass(frozen=True, slots=True)
class Call:
    """An operator and what it was called with, results of the pass replaced by :class:`Made`."""

    operator: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Computed:
    """A tensor computed from parameters alone.

    Attributes:
        value: the tensor.
        parameters: (module name, parameter name) of what went into it, in order of use.
        call: the operation that made it, its arguments as they were.
        inputs: those of its arguments that are computed or parameters, by their ids.
    """

    value: Tensor
    parameters: tuple[tuple[str, str], ...]
    call: Call
    inputs: dict[int, Computed | tuple[str, str]]

    @torch.no_grad()
    def gain(self, network: nn.Module) -> tuple[str, str] | None:
        """Name a parameter of one value for each row that the tensor's rows are proportional to.

        It is tried out, as the computation may be anything; in double precision, on the CPU.
        """
        rows = self.value.shape[0]
        factor = torch.linspace(0.5, 2.0, rows, dtype=torch.float64, device="cpu")
        along_rows = factor.view(-1, *(1 for _ in self.value.shape[1:]))
        doubles: dict[int, Tensor] = {}
        for owner, name in self.parameters:
            gain = network.get_submodule(owner)._parameters[name]
            if gain is None or gain.shape != (rows, *(1 for _ in gain.shape[1:])):
                continue
            with torch.autocast("cpu", enabled=False):
                expected = along_rows * self.again((owner, name), torch.ones_like(factor), doubles)
                found = self.again((owner, name), factor, doubles)
            if torch.allclose(found, expected, rtol=1e-6, atol=0):
                return owner, name
        return None

    def again(
        self, parameter: tuple[str, str], factor: Tensor, doubles: dict[int, Tensor]
    ) -> Tensor:
        """Compute it from a parameter times a factor.

        Args:
            parameter: (module name, parameter name).
            factor: one value for each row.
            doubles: what was used in place of tensors, by their ids; grows.
        """

        def put(leaf: Any) -> Any:
            if isinstance(leaf, torch.device):
                return torch.device("cpu")
            if isinstance(leaf, torch.dtype):
                return torch.float64 if leaf.is_floating_point else leaf
            if not isinstance(leaf, Tensor):
                return leaf
            known = self.inputs.get(id(leaf))
            if isinstance(known, Computed):
                return known.again(parameter, factor, doubles)
            if id(leaf) not in doubles:
                doubles[id(leaf)] = _double(leaf, is_parameter=known is not None)
            double = doubles[id(leaf)]
            # The operation may write into what it gets.
            return double * factor.view(leaf.shape) if known == parameter else double.clone()

        args, kwargs = tree_map(put, (self.call.args, self.call.kwargs))
        result: Tensor = tree_leaves(self.call.operator(*args, **kwargs))[0]
        return result


def _double(tensor: Tensor, *, is_parameter: bool) -> Tensor:
    """Copy values to the CPU, in double precision if they are no whole numbers.

    Where there are none (meta) they are made up, as are zeros of a parameter: anything would be
    proportional to those.
    """
    if not tensor.is_floating_point():
        return torch.zeros_like(tensor, device="cpu") if tensor.is_meta else tensor.cpu()
    double = torch.empty_like(tensor, dtype=torch.float64, device="cpu")
    double.uniform_(0.5, 1.5, generator=torch.Generator("cpu").manual_seed(double.numel()))
    if tensor.is_meta:
        return double
    values = tensor.to(double)
    return values.where(values != 0, double) if is_parameter else values


@dataclass(slots=True)
class Operation:
    """One tensor operation of the pass that depends on the network's input.

    Attributes:
        index: its place in the order of execution.
        kind: the operator's full name, such as ``"aten.add.Tensor"``.
        module: name of the innermost module whose forward was running.
        inputs: indices of the operations whose results it used.
        parameters: (module name, parameter name) of the parameters it used.
        parameter_shapes: their shapes as it used them.
        computed: what it used that is computed from parameters alone: a standardised weight, say.
        shape: its first result's shape.
        plain_sum: for additions, both sides of the result's shape and with factor 1.
        ancestors: bit i is set where operation i went into it; its own bit too.
        call: how it was called.
        consumers: indices of the operations that used its result.
    """

    index: int
    kind: str
    module: str
    inputs: tuple[int, ...]
    parameters: tuple[tuple[str, str], ...]
    parameter_shapes: tuple[torch.Size, ...]
    computed: tuple[Computed, ...]
    shape: torch.Size
    plain_sum: bool
    ancestors: int
    call: Call
    consumers: list[int] = field(default_factory=list)

    @property
    def short_name(self) -> str:
        """The operator's name for messages, such as ``"add"``."""
        return self.kind.removeprefix("aten.").partition(".")[0].strip("_")

    @property
    def uses_input(self) -> int:
        """How many of its arguments are results of the pass."""
        leaves = tree_leaves((self.call.args, self.call.kwargs))
        return sum(isinstance(leaf, Made) for leaf in leaves)
