"""Averages of all weights of a stage on a GPU: one kernel launch."""
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
# ruff: noqa: ANN001, ANN202, N803

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

AVERAGES, INPUTS = 32, 32
"""Averages that a program computes, and how many numbers it adds to each at a time."""
KEPT = 256
"""Tables kept for weights that may come again."""


@triton.jit
def _average(table, result, AVERAGES: tl.constexpr, INPUTS: tl.constexpr):
    row = table + tl.program_id(0) * 8  # A weight's address, layout, and place in the result.
    address = tl.load(row)
    averages = tl.load(row + 1)
    inputs = tl.load(row + 2)
    kernel = tl.load(row + 3)
    weight = address.to(tl.pointer_type(result.dtype.element_ty))
    number = tl.program_id(1) * AVERAGES + tl.arange(0, AVERAGES)
    first = number // kernel * tl.load(row + 4) + number % kernel * tl.load(row + 6)
    stride = tl.load(row + 5)
    live = number < averages
    total = tl.zeros([AVERAGES], dtype=result.dtype.element_ty)
    for start in range(0, inputs, INPUTS):
        column = start + tl.arange(0, INPUTS)
        place = weight + first[:, None] + column[None, :] * stride
        both = live[:, None] & (column < inputs)[None, :]
        total += tl.sum(tl.load(place, mask=both, other=0), 1)
    tl.store(result + tl.load(row + 7) + number, total / inputs, mask=live)


def layout(weight: Tensor) -> tuple[int, ...] | None:
    """Describe where a weight's numbers are.

    Args:
        weight: ``(out, in, *kernel)``.

    Returns:
        Averages, inputs, elements of the kernel, and the strides of outputs, inputs and the
        kernel's elements; None where a kernel's elements do not lie at equal distances.
    """
    out, inputs, *kernel = weight.shape
    stride_out, stride_in, *strides = weight.stride()
    elements, distance = 1, 1
    for size, stride in zip(reversed(kernel), reversed(strides), strict=True):
        if elements == 1:
            distance = stride
        elif size > 1 and stride != elements * distance:
            return None
        elements *= size
    return out * elements, inputs, elements, stride_out, stride_in, distance


Rows = tuple[tuple[int, ...], ...]
_recent: dict[tuple[Rows, torch.device], Tensor] = {}
_in_graphs: list[Tensor] = []
"""CUDA graphs read their tables wherever they were, so that these are kept."""


def _table(rows: Rows, device: torch.device, *, only_known: bool) -> Tensor | None:
    """Bring the weights' places to the GPU, once.

    Returns:
        int64 ``(weights, 8)``; None for new weights if told so, or while a CUDA graph is captured,
        which can't wait for a copy from the host.
    """
    capturing = device.type == "cuda" and torch.cuda.is_current_stream_capturing()
    table = _recent.pop((rows, device), None)
    if table is None:
        if capturing or only_known:
            return None
        table = torch.tensor(rows, device=device)
        if len(_recent) == KEPT:
            del _recent[next(iter(_recent))]
    _recent[rows, device] = table
    if capturing:
        _in_graphs.append(table)
    return table


def average(weights: Sequence[Tensor], *, only_known: bool = False) -> Tensor | None:
    """Average each weight over its inputs, one behind the other.

    Args:
        weights: ``(out, in, *kernel)``, all of one dtype on one device.
        only_known: only weights that were averaged before.

    Returns:
        The concatenation of ``weight.mean(1).flatten()``, or None where the kernel can't: for some
        layouts in memory, and for new weights while a CUDA graph is captured.
    """
    rows: list[tuple[int, ...]] = []
    at = most = 0
    for weight in weights:
        where = layout(weight)
        if where is None:
            return None
        rows.append((weight.data_ptr(), *where, at))
        at += where[0]
        most = max(most, where[0])
    with torch.cuda.device_of(weights[0]):
        table = _table(tuple(rows), weights[0].device, only_known=only_known)
        if table is None:
            return None
        result = weights[0].new_empty(at)
        grid = len(rows), triton.cdiv(most, AVERAGES)
        _average[grid](table, result, AVERAGES=AVERAGES, INPUTS=INPUTS)
    return result


@torch.library.custom_op("timestepper::average_weights", mutates_args=())
def average_operator(weights: list[Tensor]) -> Tensor:
    """Run :func:`average` as one operator, into which torch.compile does not look.

    It makes no table: where torch.compile makes CUDA graphs, what is made must not be kept.
    """
    averages = average(weights, only_known=True)
    if averages is None:
        return torch.cat([weight.mean(1).flatten() for weight in weights])
    return averages


@average_operator.register_fake
def _shape(weights: list[Tensor]) -> Tensor:
    return weights[0].new_empty(sum(weight.numel() // weight.shape[1] for weight in weights))
