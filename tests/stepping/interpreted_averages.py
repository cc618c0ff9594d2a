"""Run by test_average_kernel.py in a process whose Triton kernels are interpreted on the CPU."""

import copy

import torch
from torch import nn

import timestepper
from timestepper.networks import create
from timestepper.stepping import average_triton, branches

LARGEST = {torch.float32: 1e-6, torch.float64: 1e-12}
LAST = torch.channels_last


def weights(dtype):
    """Make weights of many kinds: inputs and averages that fill tiles and that do not."""
    shapes = [(16, 16, 3, 3), (3, 5, 3, 3), (64, 33, 1, 1), (7, 70), (6, 4, 5), (2, 3, 3, 2, 2)]
    made = [torch.randn(shape, dtype=dtype) for shape in shapes]
    made += [torch.randn(8, 40, 3, 3, dtype=dtype).to(memory_format=LAST)]
    # Columns of a wider matrix.
    return [*made, torch.randn(6, 20, dtype=dtype)[:, 5:15]]


def compare(some):
    found = average_triton.average(some)
    expected = torch.cat([weight.mean(1).flatten() for weight in some])
    assert found.shape == expected.shape
    difference = (found - expected).abs().max().item()
    assert difference < LARGEST[found.dtype], difference


def compare_compiled():
    torch.manual_seed(0)
    network = timestepper.attach(create("cifar_resnet8"), "lstm+").double()
    plain = copy.deepcopy(network)
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    plain(images).square().sum().backward()
    branches._fit_a_kernel = lambda weights: True
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    compiled(images).square().sum().backward()
    for one, other in zip(network.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-10, atol=1e-12)


if __name__ == "__main__":
    torch.manual_seed(0)
    for dtype in LARGEST:
        for _ in range(2):
            compare(weights(dtype))
        compare(weights(dtype)[:1])
    # Every other row and column of a kernel: not at equal distances.
    assert average_triton.average([torch.randn(4, 4, 6, 6)[:, :, ::2, ::2]]) is None
    many = [nn.Linear(3, 3).weight.detach() for _ in range(average_triton.KEPT + 5)]
    for weight in many:
        compare([weight])
    assert len(average_triton._recent) == average_triton.KEPT
    compare_compiled()
    print("all the same")
