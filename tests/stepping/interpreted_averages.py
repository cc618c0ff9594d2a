"""Run by test_interpreted_kernels.py, in a process whose Triton interprets kernels on the CPU."""

import copy

import torch
from home_made import HomeMade
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.autograd import forward_ad

import timestepper
from timestepper.stepping import average_triton, branches

LARGEST = {torch.float32: 1e-6, torch.float64: 1e-12}
# Sizes that fill the kernel's tiles and ones that don't, smaller and larger than these.
LISTS = {
    "one": [(16, 64, 1, 1)],
    "alike": [(4, 5, 3, 3)] * 3,
    "linear": [(7, 3), (20, 65)],
    "1d": [(3, 70, 5)],
    "3d": [(2, 3, 2, 3, 4)],
    "mixed": [(4, 3, 3, 3), (17, 2), (1, 1, 1, 1), (5, 130, 1, 3), (2, 4, 7), (2, 3, 2, 1, 2)],
}
CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def refuse(weights: object) -> torch.Tensor:
    """Stand for torch's operations where the kernel has to be used."""
    raise AssertionError("not averaged by the kernel")


def capture(capturing: bool) -> None:
    """Tell the kernel's caller whether a CUDA graph is being captured."""
    torch.cuda.is_current_stream_capturing = lambda: capturing


def make(shapes: list[tuple[int, ...]], dtype: torch.dtype, last: bool) -> list[torch.Tensor]:
    """Make weights in either order of memory."""
    weights = [torch.randn(shape, dtype=dtype) for shape in shapes]
    if not last:
        return weights
    return [w.to(memory_format=CHANNELS_LAST.get(w.ndim, torch.contiguous_format)) for w in weights]


def compare(weights: list[torch.Tensor], name: str) -> None:
    """Compare the kernel's averages with torch's."""
    expected = branches.in_turn(weights)
    found = average_triton.average(weights)
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    difference = (found - expected).abs().max().item()
    assert difference < LARGEST[found.dtype], (name, found.dtype, difference)


def compare_lists() -> None:
    """Average all lists, each twice, in tensors that lie elsewhere."""
    for name, shapes in LISTS.items():
        for dtype in LARGEST:
            for last in (False, True):
                first = make(shapes, dtype, last)
                compare(first, name)
                compare(make(shapes, dtype, last), name)  # At other addresses: first is alive.
    # Part of a wider weight, and one whose kernel is transposed in memory as a whole.
    compare([torch.randn(6, 9, 3, 3)[1:4, 2:7], torch.randn(3, 3, 5, 4).permute(3, 2, 0, 1)], "")


def fall_back() -> None:
    """Leave to torch what has no one stride, and what a capture finds without a table."""
    crossed = [torch.randn(2, 3, 4, 5).transpose(2, 3)]
    assert torch.equal(average_triton.average(crossed), branches.in_turn(crossed))
    weights = make(LISTS["alike"], torch.float64, False)
    capture(True)
    tables = len(average_triton._tables)
    assert torch.equal(average_triton.average(weights), branches.in_turn(weights))
    assert len(average_triton._tables) == tables
    capture(False)
    compare(weights, "captured")
    capture(True)
    average_triton.in_turn = refuse
    compare(weights, "captured")
    average_triton.in_turn = branches.in_turn
    average_triton._tables.clear()
    assert len(average_triton._captured) == 1  # A graph still copies it.
    capture(False)


def forget() -> None:
    """Keep no more than so many tables."""
    average_triton.MOST_TABLES = 3
    kept = [make([(2, 3)], torch.float64, False) for _ in range(7)]
    for weights in kept:
        compare(weights, "many")
        assert len(average_triton._tables) <= 3


def leave_to_torch() -> None:
    """Transformed or watched averages are torch's."""
    batched = [torch.randn(2, 4, 3), torch.randn(2, 4, 3)]
    expected = [branches.average_weights(1, [weight[n] for weight in batched]) for n in range(2)]
    branches.GPU = "cpu"
    average_triton._tables.clear()
    found = torch.vmap(lambda *weights: branches.average_weights(1, weights))(*batched)
    torch.testing.assert_close(found, torch.stack(expected))
    weight, tangent = make([(4, 3)] * 2, torch.float64, False)
    with forward_ad.dual_level():
        averages = branches.average_weights(1, [forward_ad.make_dual(weight, tangent)])
        torch.testing.assert_close(forward_ad.unpack_dual(averages).tangent, tangent.mean(1)[None])
    with FakeTensorMode():
        branches.average_weights(1, make([(4, 3)], torch.float32, False))
    assert not average_triton._tables
    branches.average_weights(1, batched)
    assert len(average_triton._tables) == 1
    branches.GPU = "cuda"


def run(network: nn.Module, module: nn.Module) -> list[torch.Tensor]:
    """Return outputs and the gradients of all parameters."""
    images = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1)).double()
    outputs = module(images)
    outputs.square().sum().backward()
    return [outputs.detach(), *(p.grad for p in network.parameters())]


def compare_networks() -> None:
    """Compare a network whose averages are the kernel's with one whose averages aren't."""
    network = timestepper.attach(HomeMade(width=4, depth=2), "2fc").double()
    expected = run(network, network)
    branches.GPU = "cpu"
    branches.in_turn = average_triton.in_turn = refuse
    for compiled in (False, True):
        copied = copy.deepcopy(network)
        copied.zero_grad()
        module = torch.compile(copied, fullgraph=True, backend="aot_eager") if compiled else copied
        found = run(copied, module)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


if __name__ == "__main__":
    torch.manual_seed(0)
    capture(False)
    compare_lists()
    fall_back()
    forget()
    leave_to_torch()
    compare_networks()
    print("all the same")
