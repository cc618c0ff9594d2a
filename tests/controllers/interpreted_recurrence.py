"""Run by test_interpreted_kernels.py, in a process whose Triton interprets kernels on the CPU."""

import torch

from timestepper.controllers import lstm_steps, lstm_triton

LARGEST = {torch.float32: 1e-5, torch.float64: 1e-12}


def compare(depth: int, hidden: int, dtype: torch.dtype) -> None:
    """Compare h, gates, cells and gradients with those of torch's operations."""
    from_inputs = torch.randn(depth, 4 * hidden, dtype=dtype)
    # As it arrives: columns of a wider matrix.
    of_before = (torch.randn(4 * hidden, 2 * hidden, dtype=dtype) / 2)[:, hidden:]
    grad_h = torch.randn(depth, hidden, dtype=dtype)
    expected = lstm_steps.recurrence(from_inputs, of_before)
    found = lstm_triton.recurrence(from_inputs, of_before)
    expected += (lstm_steps.recurrence_backward(grad_h, of_before, *expected[1:]),)
    found += (lstm_triton.recurrence_backward(grad_h, of_before, *found[1:]),)
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        difference = (one - other).abs().max().item()
        assert difference < LARGEST[dtype], (depth, hidden, dtype, difference)


if __name__ == "__main__":
    torch.manual_seed(0)
    # Sizes that fill Triton's blocks and ones that don't, more and fewer than a chunk's columns.
    for depth, hidden in ((1, 4), (3, 16), (5, 6), (4, 17), (2, 40)):
        for dtype in LARGEST:
            compare(depth, hidden, dtype)
    print("all the same")
