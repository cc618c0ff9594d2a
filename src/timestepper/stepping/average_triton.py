"""The averages of a stage's weights on a GPU: one kernel launch for all of them."""
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
# ruff: noqa: ANN001, ANN202, N803

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from timestepper.stepping.branches import in_turn

BLOCK = 16
"""Averages of one program."""
CHUNK = 64
"""How many numbers of each average are held at a time."""
COLUMNS = 8
"""Numbers in the table for each weight."""
MOST_TABLES = 128
"""Where weights are computed, and lie elsewhere in each pass, tables would pile up."""


# Neighbouring threads read neighbouring inputs: these lie side by side in channels_last and in
# pointwise and linear weights, and a kernel's size apart in others, whose program reads all of
# what lies between as well.
@triton.jit
def _average(table, averages, COLUMNS: tl.constexpr, BLOCK: tl.constexpr, CHUNK: tl.constexpr):
    row = table + tl.program_id(1) * COLUMNS
    weight = tl.load(row).to(tl.pointer_type(averages.dtype.element_ty))
    first = tl.load(row + 1)
    count = tl.load(row + 2)
    inputs = tl.load(row + 3)
    elements = tl.load(row + 4)
    of_output = tl.load(row + 5)
    of_input = tl.load(row + 6)
    of_element = tl.load(row + 7)
    start = tl.program_id(0) * BLOCK
    if start < count:
        at = start + tl.arange(0, BLOCK).to(tl.int64)
        live = at < count
        places = weight + at // elements * of_output + at % elements * of_element
        sums = tl.zeros([BLOCK, CHUNK], dtype=averages.dtype.element_ty)
        for begin in range(0, inputs, CHUNK):
            i = begin + tl.arange(0, CHUNK)
            both = live[:, None] & (i < inputs)[None, :]
            sums += tl.load(places[:, None] + i[None, :] * of_input, mask=both, other=0)
        tl.store(averages + first + at, tl.sum(sums, 1) / inputs, mask=live)


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """Where weights lie and where their averages go.

    Attributes:
        rows: for each weight its address; where its averages begin and how many they are; inputs
            and numbers in a kernel; strides of outputs, of inputs and within the kernel. On the
            host, pinned: each pass copies it, since a tensor kept on the GPU could come from the
            memory of a CUDA graph that is being made, which has to be given back.
        tiles: programs that the weight with the most averages takes.
        total: how many averages there are.
    """

    rows: Tensor
    tiles: int
    total: int


_tables: dict[Any, Table | None] = {}
_captured: set[Table] = set()
"""What CUDA graphs copy from whenever they are replayed."""


def average(weights: Sequence[Tensor]) -> Tensor:
    """Average weights over their input dimensions.

    Torch's operations do so where a weight's kernel dimensions are not one behind the other in
    memory, or a CUDA graph is being captured and there is no table of these weights yet: it can't
    be made then.

    Args:
        weights: ``(out, in, *kernel)`` each, float32 or float64, all of one dtype and on one GPU.

    Returns:
        All averages, one weight's behind the other's, ``(averages,)``.
    """
    one = weights[0]
    places = tuple((weight.data_ptr(), weight.shape, weight.stride()) for weight in weights)
    key = one.device, one.dtype, places
    with torch.cuda.device_of(one):
        capturing = torch.cuda.is_current_stream_capturing()
        try:
            table = _tables[key]
        except KeyError:
            if capturing:
                return in_turn(weights)
            if len(_tables) >= MOST_TABLES:
                _tables.clear()
            table = _tables[key] = _tabulate(places, pinned=one.is_cuda)
        if table is None:
            return in_turn(weights)
        if capturing:
            _captured.add(table)
        rows = table.rows.to(one.device, non_blocking=True)
        averages = one.new_empty(table.total)
        grid = table.tiles, len(weights)
        _average[grid](rows, averages, COLUMNS=COLUMNS, BLOCK=BLOCK, CHUNK=CHUNK)
        return averages


def _tabulate(
    places: Sequence[tuple[int, torch.Size, tuple[int, ...]]], pinned: bool
) -> Table | None:
    rows: list[tuple[int, ...]] = []
    total = largest = 0
    for address, shape, strides in places:
        of_element = _stride_within(shape[2:], strides[2:])
        if of_element is None:
            return None
        elements = shape[2:].numel()
        count = shape[0] * elements
        rows.append((address, total, count, shape[1], elements, *strides[:2], of_element))
        total += count
        largest = max(largest, count)
    tensor = torch.tensor(rows, dtype=torch.int64, device="cpu", pin_memory=pinned)
    return Table(tensor, triton.cdiv(largest, BLOCK), total)


def _stride_within(kernel: Sequence[int], strides: Sequence[int]) -> int | None:
    """Return the one stride that goes through all of a kernel, None where there is none."""
    stride, reached = 1, 1
    for size, own in zip(reversed(kernel), reversed(strides), strict=True):
        if size == 1:
            continue
        if reached == 1:
            stride = own
        elif own != stride * reached:
            return None
        reached *= size
    return stride


@torch.library.custom_op("timestepper::average_weights", mutates_args=())
def average_operator(weights: list[Tensor]) -> Tensor:
    """Run :func:`average` as one operation, into which torch.compile does not look."""
    return average(weights)


@average_operator.register_fake
def _averages_shape(weights: list[Tensor]) -> Tensor:
    total = sum(weight.shape[0] * weight.shape[2:].numel() for weight in weights)
    return weights[0].new_empty(total)
