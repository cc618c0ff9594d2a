import pytest
import torch

from timestepper.errors import ShippingError
from timestepper.shipping.agreement import require_close, require_equal


def test_equal_means_every_bit():
    expected = torch.tensor([[1.0, -200.0]])
    require_equal(expected, expected.clone(), "it")
    neighbour = torch.nextafter(expected, torch.tensor(0.0))
    with pytest.raises(ShippingError, match=r"it gives other outputs \(they differ by up to 1.5e"):
        require_equal(expected, neighbour, "it")


def test_close_is_relative_to_the_largest_output():
    expected = torch.tensor([[0.0, -200.0]], dtype=torch.float64)
    nearly = expected + torch.tensor([[0.0019, 0.0]])
    assert require_close(expected, nearly, "it") == pytest.approx(0.95e-5, rel=1e-4)
    with pytest.raises(ShippingError, match="1e-05 of the largest is allowed"):
        require_close(expected, expected + torch.tensor([[0.0021, 0.0]]), "it")


@pytest.mark.parametrize("wrong", [torch.tensor([[1.0, torch.nan]]), torch.tensor([[1.0]])])
def test_nan_and_other_shapes_are_never_close(wrong):
    for require in (require_close, require_equal):
        with pytest.raises(ShippingError, match="gives other outputs"):
            require(torch.ones(1, 2), wrong, "it")


def test_zeros_are_close_to_zeros():
    assert require_close(torch.zeros(1, 2), torch.zeros(1, 2), "it") == 0
