"""The Lipschitz constant of any function, as that of a branch."""

from torch import nn

from timestepper.stability import unroll
from timestepper.stability.lipschitz import Lipschitz
from timestepper.stepping import Branch


class Function(nn.Module):
    """A branch x + conv(f(x)): the convolution, the identity, lets the branch be found."""

    def __init__(self, function, channels=4):
        super().__init__()
        self.function = function
        self.conv = nn.Conv2d(channels, channels, 1, bias=False)
        nn.init.dirac_(self.conv.weight)

    def forward(self, x):
        return x + self.conv(self.function(x))


def constant(function, example):
    """Compute the Lipschitz constant that our rules give a function."""
    network = Function(function, example.shape[1]).eval()
    branch = Branch("", "stage", ("conv",), ("conv",))
    unrolled = unroll(network, example, [branch])
    (step,) = unrolled.steps
    values = unrolled.evaluate(example)
    return Lipschitz(unrolled, values).log_constant(step.start, step.end).exp().item()
