"""Branches that end in a weight computed from a gain: in any precision, and without values."""

from contextlib import nullcontext

import pytest
import timm
import torch
from reference import Random
from torch import nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

import timestepper
from timestepper.errors import FoldError

WIDTH = 4


class Normed(nn.Module):
    def __init__(self, autocast=False):
        super().__init__()
        self.conv = weight_norm(nn.Conv2d(WIDTH, WIDTH, 3, padding=1))
        self.autocast = autocast

    def forward(self, x):
        low_precision = torch.autocast("cpu", torch.bfloat16) if self.autocast else nullcontext()
        with low_precision:
            return x + self.conv(x)


def normalisation_free(**options):
    network = timm.create_model("test_nfnet", **options)
    for name, parameter in network.named_parameters():
        if name.endswith("gain") and not parameter.is_meta:
            nn.init.uniform_(parameter, 0.5, 1.5)
    return network


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "make", [normalisation_free, lambda: nn.Sequential(nn.Conv2d(3, WIDTH, 1), Normed(), Normed())]
)
def test_in_low_precision(make, dtype):
    expected = timestepper.find_branches(make().double())
    assert timestepper.find_branches(make().to(dtype)) == expected


def test_on_the_meta_device():
    expected = timestepper.find_branches(normalisation_free())
    with torch.device("meta"):
        network = normalisation_free()
    assert timestepper.find_branches(network) == expected


@pytest.mark.parametrize("outside", [True, False])
def test_under_autocast(outside):
    network = nn.Sequential(nn.Conv2d(3, WIDTH, 1), Normed(not outside), Normed(not outside))
    with torch.autocast("cpu", torch.bfloat16, enabled=outside):
        branches = timestepper.find_branches(network)
    assert [branch.scaled for branch in branches] == [
        (f"{i}.conv.parametrizations.weight.original0", f"{i}.conv.bias") for i in (1, 2)
    ]


class Computed(nn.Module):
    """A weight of two parameters that are zero at the start, as a last layer's often are."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.conv = nn.Conv2d(WIDTH, WIDTH, 1, bias=False)
        self.row = nn.Parameter(torch.zeros(WIDTH, 1, 1, 1))
        nn.init.zeros_(self.conv.weight)

    def forward(self, x):
        return x + functional.conv2d(x, self.function(self.conv.weight, self.row))


def test_zeros_are_proportional_to_what_other_values_are():
    x = torch.randn(2, 3, 6, 6).double()
    product = nn.Sequential(nn.Conv2d(3, WIDTH, 1), Computed(torch.mul)).double()
    assert timestepper.find_branches(product, x)[0].scaled == ("1.row",)
    timestepper.attach(product, Random, example_input=x)
    with torch.no_grad():
        product[1].conv.weight.normal_()
        product[1].row.normal_()
        state = product[0](x)
        (steps,) = timestepper.step_sizes(product).values()
        branch = functional.conv2d(state, product[1].conv.weight * product[1].row)
        expected = state + steps[:, None, None] * branch
        torch.testing.assert_close(product(x), expected, rtol=1e-10, atol=1e-12)
    added = nn.Sequential(nn.Conv2d(3, WIDTH, 1), Computed(torch.add)).double()
    with pytest.raises(FoldError, match="branch 1"):
        timestepper.attach(added, Random, example_input=x)
