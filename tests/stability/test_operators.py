"""Spectral norms and eigenvalues against dense matrices."""

import numpy as np
import pytest
import torch
from dense_matrices import jacobian, matrix, norm
from torch import nn

from timestepper.errors import StabilityError
from timestepper.stability.operators import Jacobian


def normed(channels):
    batch_norm = nn.BatchNorm2d(channels).eval()
    for tensor in (batch_norm.weight.data, batch_norm.bias.data, batch_norm.running_mean):
        tensor.normal_()
    batch_norm.running_var.uniform_(0.3, 2)
    return batch_norm


LINEAR = {
    "padding": lambda: nn.Conv2d(3, 4, 3, padding=1),
    "stride": lambda: nn.Conv2d(3, 5, 3, padding=1, stride=2),
    "groups": lambda: nn.Conv2d(4, 4, 3, padding=2, groups=2, dilation=2),
    "circular padding": lambda: nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"),
    "depthwise": lambda: nn.Conv2d(3, 3, 5, padding=2, groups=3, bias=False),
    "transposed": lambda: nn.ConvTranspose2d(3, 2, 3, stride=2),
    "batch norm": lambda: normed(3),
    "convolution and norm": lambda: nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), normed(4)),
    "linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(108, 50)),
    "few outputs": lambda: nn.Sequential(nn.Flatten(), nn.Linear(108, 2)),
    "one output": lambda: nn.Sequential(nn.Flatten(), nn.Linear(108, 1)),
    "pooling": lambda: nn.AvgPool2d(3, 2, 1),
    "upsampling": lambda: nn.Upsample(scale_factor=2, mode="bilinear"),
}


@pytest.mark.parametrize("kind", LINEAR)
def test_spectral_norm_of_linear_operators(kind):
    function = LINEAR[kind]()
    example = torch.zeros(1, 4 if kind == "groups" else 3, 6, 6)
    expected = norm(matrix(function, example))
    assert Jacobian(function, example).spectral_norm() == pytest.approx(expected, rel=1e-9)
    single = Jacobian(function.float(), example.float()).spectral_norm()
    assert single == pytest.approx(expected, rel=1e-6)


def test_norm_and_direction_of_a_jacobian():
    function = nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1),
        nn.GELU(),
        normed(6),
        nn.Conv2d(6, 2, 3, padding=1),
        nn.Tanh(),
    )
    point = torch.randn(1, 2, 5, 5)
    dense = jacobian(function, point)
    value, direction = Jacobian(function, point).leading_direction()
    assert value == pytest.approx(norm(dense), rel=1e-9)
    reached = dense @ torch.from_numpy(direction.copy())
    assert reached.norm().item() == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize("size", [3, 9, 60])
def test_eigenvalues_of_an_euler_step(size):
    weight = torch.randn(size, size) / 3
    function = nn.Sequential(nn.Linear(size, size), nn.Tanh())
    function[0].weight.data = weight
    point = torch.randn(size)
    expected = np.linalg.eigvals((torch.eye(size) + jacobian(function, point)).detach().numpy())
    expected = expected[np.argsort(-np.abs(expected))]
    found = Jacobian(function, point).eigenvalues(6, shift=1.0)
    count = min(6, size)
    assert len(found) == count
    assert np.abs(found) == pytest.approx(np.abs(expected[:count]), rel=1e-8)
    assert (np.diff(np.abs(found)) <= 1e-9).all()
    for value in found:
        assert np.abs(expected - value).min() < 1e-7


def test_operator_that_is_zero():
    function = nn.Conv2d(3, 4, 3, padding=1)
    nn.init.zeros_(function.weight)
    operator = Jacobian(function, torch.zeros(1, 3, 6, 6))
    assert operator.spectral_norm() == 0
    constant = Jacobian(lambda x: torch.ones(20), torch.zeros(20))
    assert constant.spectral_norm() == 0
    assert constant.eigenvalues(2, shift=1.0) == pytest.approx([1, 1])


def test_products_whose_squares_pass_float32():
    """In float32, Jᵀ(Jv) of an operator of norm 1e20 is infinite."""
    function = nn.Conv2d(3, 4, 3, padding=1, bias=False)
    function.weight.data *= 1e20
    example = torch.zeros(1, 3, 6, 6)
    expected = norm(matrix(function, example))
    found = Jacobian(function.float(), example.float()).spectral_norm()
    assert found == pytest.approx(expected, rel=1e-6)
    few = Jacobian(lambda x: 1e20 * x, torch.zeros(20, dtype=torch.float32)).spectral_norm()
    assert few == pytest.approx(1e20, rel=1e-6)


def test_functions_without_a_second_derivative():
    operator = Jacobian(nn.Hardsigmoid(), torch.zeros(20))
    with pytest.raises(StabilityError, match="can't be computed: derivative for aten::hard"):
        operator.spectral_norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dense_spectrum(dtype):
    """Thousands of singular values lie next to the largest, as of a scale for each position."""
    scales = torch.linspace(0.5, 1, 5000, dtype=dtype)
    operator = Jacobian(lambda x: x * scales, torch.zeros(5000, dtype=dtype))
    try:
        found = operator.spectral_norm()
    except StabilityError as error:
        assert "did not converge" in str(error)  # noqa: PT017 - both are honest
    else:
        assert found == pytest.approx(1, abs=operator.tolerance)
