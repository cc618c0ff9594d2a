"""Two residual blocks that a function spells out, and Eq. 13 written out beside them."""

import copy

import torch
from reference import Random
from torch import nn

import timestepper

WIDTH = 4


class Parts(nn.Module):
    """Two blocks of layers a, b (1×1) and c, used by a function (network, block, state, step)."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.stem = nn.Conv2d(3, WIDTH, 1)
        self.a = nn.ModuleList(nn.Conv2d(WIDTH, WIDTH, 3, padding=1) for _ in range(2))
        self.b = nn.ModuleList(nn.Conv2d(WIDTH, WIDTH, 1) for _ in range(2))
        self.c = nn.ModuleList(nn.Conv2d(WIDTH, WIDTH, 3, padding=1) for _ in range(2))
        self.norm = nn.ModuleList(nn.BatchNorm2d(WIDTH) for _ in range(2))
        self.gain = nn.ParameterList(torch.rand(WIDTH, 1, 1) + 0.5 for _ in range(2))
        self.steps = None

    def forward(self, images):
        x = self.stem(images)
        for block in range(2):
            # As it is written, or Eq. 13 written out.
            x = self.function(self, block, x, None if self.steps is None else self.steps[block])
        return x


def make(function):
    torch.manual_seed(0)
    network = Parts(function).double()
    for norm in network.norm:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.uniform_(norm.bias, -0.5, 0.5)
    return network.eval(), torch.randn(2, 3, 6, 6).double()


def require_eq_13(function):
    """Attach to the blocks, compare with Eq. 13 written out, and fold."""
    plain, images = make(function)
    network = timestepper.attach(copy.deepcopy(plain), Random, example_input=images)
    steps = list(timestepper.step_sizes(network).values())
    assert [len(step) for step in steps] == [WIDTH, WIDTH]
    plain.steps = [step[:, None, None] for step in steps]
    with torch.no_grad():
        stepped = network(images)
        torch.testing.assert_close(stepped, plain(images), rtol=1e-11, atol=1e-13)
        assert torch.equal(timestepper.fold(network)(images), stepped)
