"""The loops against torch's operations and autograd."""

import numpy as np
import pytest
import torch

from timestepper.stepping.array_products import ArrayPlan, _has_inputs_last, _spread
from timestepper.stepping.product_loops import average, gather, multiply, multiply_backward, read

SHAPES = {
    "convolutions of two sizes": [(4, 6, 3, 3), (4, 6, 3, 3), (5, 4, 3, 3)],
    "other kernels": [(4, 6, 1, 1), (4, 3, 1, 3), (2, 1, 5, 2)],
    "linear layers": [(4, 6), (6, 4)],
    "one and three dimensions": [(4, 6, 3), (3, 2, 3, 1, 2)],
    "many inputs": [(3, 16, 3, 3), (3, 21, 3, 3), (3, 21, 1, 1)],
}


def as_laid_out(weight, inputs_last):
    return weight.movedim(1, -1).contiguous().movedim(-1, 1) if inputs_last else weight


@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("inputs_last", [False, True])
def test_averages_and_their_gradient(shapes, inputs_last):
    torch.manual_seed(0)
    weights = [as_laid_out(torch.randn(shape).double(), inputs_last) for shape in shapes]
    plan = ArrayPlan.of([(0, 1)], [], [], weights)
    found = np.empty(len(plan.inverses))
    last = [_has_inputs_last(weight) for weight in weights]
    assert None not in last
    average(np.array([w.data_ptr() for w in weights]), plan.sizes, np.array(last), found)
    leaves = [weight.requires_grad_() for weight in weights]
    averages = torch.cat([weight.mean(1).flatten() for weight in leaves])
    torch.testing.assert_close(torch.from_numpy(found), averages.detach(), rtol=1e-13, atol=1e-15)
    grad = torch.randn_like(averages)
    expected = torch.autograd.grad(averages, leaves, grad)
    for one, other in zip(_spread(plan, grad.numpy()), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-13, atol=0)


def test_what_has_gaps_has_no_layout():
    assert _has_inputs_last(torch.randn(4, 6, 3, 3)[:, ::2]) is None
    assert _has_inputs_last(torch.randn(3, 3, 6, 4).permute(3, 2, 1, 0)) is None


def test_read():
    """What lies behind the vectors is averaged."""
    vectors = [torch.randn(3).double(), torch.randn(2).double()]
    weight = torch.randn(4, 6, 3, 3).double()
    plan = ArrayPlan.of([(0, 1)], vectors, [], [weight])
    averages = np.empty(36)
    addresses = np.array([tensor.data_ptr() for tensor in (*vectors, weight)])
    values = read(addresses, plan.lengths, plan.sizes, np.array([False]), averages)
    assert torch.equal(torch.from_numpy(values), torch.cat(vectors))
    expected = weight.mean(1).flatten()
    torch.testing.assert_close(torch.from_numpy(averages), expected, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gather(dtype):
    vectors = [torch.randn(3, dtype=dtype), torch.randn(2, 2, dtype=dtype)]
    addresses = np.array([vector.data_ptr() for vector in vectors])
    values = torch.full((8,), 7, dtype=dtype)
    gather(addresses, np.array([3, 4]), values.numpy())
    assert torch.equal(values, torch.cat([vectors[0], vectors[1].flatten(), values[7:]]))
    assert values[7] == 7


def test_products_and_their_gradients():
    torch.manual_seed(0)
    steps = torch.rand(6).double().requires_grad_()
    values = torch.randn(9).double().requires_grad_()
    table = np.array([(2, 3), (-1, 2), (0, 3), (2, 1)])
    factors = torch.cat([steps[2:5], steps.new_ones(2), steps[:3], steps[2:3]])
    products = values * factors
    found = multiply(table, steps.detach().numpy(), values.detach().numpy())
    assert torch.equal(torch.from_numpy(found), products.detach())
    grad = torch.randn_like(products)
    expected = torch.autograd.grad(products, (steps, values), grad)
    parts = [part.clone() for part in grad.split([5, 4])]
    gradients = multiply_backward(
        np.array([part.data_ptr() for part in parts]),
        np.array([5, 4]),
        table,
        steps.detach().numpy(),
        values.detach().numpy(),
    )
    for one, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(torch.from_numpy(one), other, rtol=1e-14, atol=0)
