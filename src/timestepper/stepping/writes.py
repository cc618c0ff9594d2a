"""Tensors that share memory: what is written into one of them changes the others too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from timestepper.stepping.operation import of_kinds

_ZEROS = of_kinds("zeros.default new_zeros.default zeros_like.default")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor lies in its memory; stride and offset count values of its type."""

    memory: int
    dtype: torch.dtype
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int

    @property
    def extent(self) -> int:
        """How many values its memory has at least."""
        steps = zip(self.size, self.stride, strict=True)
        return self.offset + 1 + sum((size - 1) * stride for size, stride in steps if size)

    def of(self, memory: Tensor) -> Tensor:
        """Give the values that lie there."""
        return memory.as_strided(self.size, self.stride, self.offset)

    def meets(self, other: Place) -> bool:
        """Tell whether two places in one memory have values in common."""
        if self.dtype != other.dtype:
            return True  # It may be.
        memory = torch.zeros(max(self.extent, other.extent), dtype=torch.bool, device="cpu")
        self.of(memory).fill_(True)
        return bool(other.of(memory).any())


def put_together(
    before: Tensor | None, place: Place, written: Sequence[Tensor], places: Sequence[Place]
) -> Tensor:
    """Give a tensor's values after others were written into its memory.

    Args:
        before: the tensor before that, None where it was zeros.
        place: where it lies.
        written: what was written.
        places: where to.
    """
    memory = written[0].new_zeros(max(one.extent for one in (place, *places)))
    if before is not None:
        place.of(memory).copy_(before)
    for values, where in zip(written, places, strict=True):
        where.of(memory).copy_(values)
    return place.of(memory).clone()


class Writes:
    """What the operations of a pass wrote into which memory, in order."""

    def __init__(self) -> None:
        self._zeros: set[int] = set()
        self._by_memory: dict[int, list[tuple[int, Place]]] = {}

    def note(
        self, operator: Any, written: list[Tensor], outputs: list[Tensor], index: int | None
    ) -> None:
        """Write down what an operation wrote into.

        Args:
            operator: the operator.
            written: its :func:`targets`.
            outputs: what it gave back.
            index: its index in the trace, None where it doesn't depend on the network's input.
        """
        for target in written:
            place = _place(target)
            if place is not None and index is not None:
                self._by_memory.setdefault(place.memory, []).append((index, place))
            elif place is not None:
                self._zeros.discard(place.memory)
        if str(operator) in _ZEROS and (made := _place(outputs[0])) is not None:
            self._zeros.add(made.memory)

    def since(
        self, tensor: Tensor, made: int | None
    ) -> tuple[Place | None, list[tuple[int, Place]]]:
        """List the writes into a tensor's memory that changed it after it was made.

        Returns:
            Where the tensor lies, and for each write the operation's index and where it wrote to.
        """
        if not self._by_memory or (place := _place(tensor)) is None:
            return None, []
        later = [
            (index, where)
            for index, where in self._by_memory.get(place.memory, ())
            if (made is None or index > made) and where.meets(place)
        ]
        return place, later

    def is_padding(self, place: Place) -> bool:
        """Tell whether a single write into zeros made what lies at a place."""
        writes = self._by_memory[place.memory]
        return place.memory in self._zeros and [w.dtype for _, w in writes] == [place.dtype]


def targets(operator: Any, args: Any, kwargs: Any) -> list[Tensor]:
    """List the tensors that an operation writes into."""
    found = [
        kwargs.get(name, args[at] if at < len(args) else None) for at, name in _written(operator)
    ]
    return [leaf for leaf in tree_leaves(found) if isinstance(leaf, Tensor)]


@cache
def _written(operator: Any) -> tuple[tuple[int, str], ...]:
    """Give number and name of each argument that an operator writes into."""
    schema = getattr(operator, "_schema", None)
    if schema is None or torch.Tag.inplace_view in operator.tags:
        return ()
    return tuple(
        (at, argument.name)
        for at, argument in enumerate(schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    )


def _place(tensor: Tensor) -> Place | None:
    """Tell where a tensor lies; None for one that has no strides (sparse, nested)."""
    if tensor.layout != torch.strided or tensor.is_nested:
        return None
    return Place(
        tensor.untyped_storage()._cdata,
        tensor.dtype,
        tuple(tensor.shape),
        tensor.stride(),
        int(tensor.storage_offset()),
    )
