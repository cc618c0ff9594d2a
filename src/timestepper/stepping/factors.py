"""The parameters that hold a branch's step sizes, and how step sizes get into them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from timestepper.errors import FoldError, NoBranchError
from timestepper.stepping.branches import READABLE, Branch, get_module

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)

SCALABLE = (
    nn.modules.batchnorm._BatchNorm,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.Linear,
    *TRANSPOSED,
)
"""Modules linear in ``weight`` and ``bias`` together."""


@dataclass(frozen=True, slots=True)
class Factor:
    """One parameter that step sizes go into.

    Attributes:
        owner: name of the module that has the parameter.
        module: that module.
        name: the parameter's name there.
        inside: name of the module whose forward uses it, mostly the owner.
        divided: the step sizes divide its input columns: it reads the branch's scaled result, for
            a gate, and has to see what it saw before. Otherwise they multiply its output rows.
    """

    owner: str
    module: nn.Module
    name: str
    inside: str
    divided: bool

    @property
    def parameter(self) -> Tensor:
        """The registered parameter, even while its product covers it."""
        parameter = self.module._parameters[self.name]
        assert parameter is not None
        return parameter

    @property
    def along_columns(self) -> bool:
        """Step sizes belong to the weight's second dimension: ``(in, out / groups, *kernel)``."""
        transposed = isinstance(self.module, TRANSPOSED) and self.name == "weight"
        return self.divided != transposed

    @property
    def channels(self) -> int:
        """How many step sizes it takes."""
        if self.along_columns:
            return self.parameter.shape[1] * int(getattr(self.module, "groups", 1))
        if isinstance(self.module, SCALABLE):
            return self.parameter.shape[0]
        return self.parameter.numel()

    @property
    def is_vector(self) -> bool:
        """It has one value for each step size, and is multiplied."""
        return not self.along_columns and self.parameter.numel() == self.channels

    def spread(self, steps: Tensor) -> Tensor:
        """Bring step sizes, ``(channels,)``, into a shape that broadcasts with the parameter."""
        shape = self.parameter.shape
        if self.is_vector:
            return steps.view(shape)
        if not self.along_columns:
            return steps.view(-1, *(1 for _ in shape[1:]))
        groups = int(getattr(self.module, "groups", 1))
        # Each group of rows has a run of columns of its own.
        columns = steps.view(groups, 1, shape[1]).expand(-1, shape[0] // groups, -1)
        return columns.reshape(shape[0], shape[1], *(1 for _ in shape[2:]))

    def product(self, steps: Tensor) -> Tensor:
        """Compute what the network runs with in the parameter's place."""
        spread = self.spread(steps)
        return self.parameter / spread if self.divided else self.parameter * spread

    def inverse(self, product: Tensor, steps: Tensor) -> Tensor:
        """Compute the parameter that has a given product."""
        spread = self.spread(steps)
        return product * spread if self.divided else product / spread


def factors_of(network: nn.Module, branch: Branch) -> list[Factor]:
    """List the parameters that hold a branch's step sizes.

    Raises:
        NoBranchError: the branch names a module or parameter that the network has not.
        FoldError: step sizes do not go into one of them.
    """
    names = [(name, False) for name in branch.scaled] + [(name, True) for name in branch.divided]
    inside = branch.inside or ("",) * len(names)
    if len(inside) != len(names):
        raise NoBranchError(
            f"branch {branch.name}: inside names {len(inside)} modules for {len(names)} scaled "
            "or divided"
        )
    factors: list[Factor] = []
    for (name, divided), place in zip(names, inside, strict=True):
        get_module(network, place)
        owner, parameters = _parameters(network, name, divided)
        factors += (
            Factor(owner, get_module(network, owner), parameter, place or owner, divided)
            for parameter in parameters
        )
    sizes = {factor.channels for factor in factors}
    if len(sizes) != 1:
        raise FoldError(
            f"branch {branch.name}: what is scaled and divided differs in channels "
            f"({sorted(sizes)}); one step size for each channel has to fit all of it"
        )
    return factors


def _parameters(network: nn.Module, name: str, divided: bool) -> tuple[str, list[str]]:
    """Resolve a module's or a parameter's name: the owner, and the parameters meant."""
    owner, _, last = name.rpartition(".")
    holder = get_module(network, owner)
    if last in holder._parameters and not divided:
        parameter = holder._parameters[last]
        if parameter is None or parameter.numel() != max(parameter.shape, default=1):
            raise FoldError(
                f"{name} is no vector: name the module that ends the branch, or a parameter with "
                "one value for each channel"
            )
        return owner, [last]
    module = get_module(network, name)
    if divided:
        if not isinstance(module, READABLE):
            raise FoldError(
                f"{name} is a {type(module).__name__}: behind a gate, only convolutions and linear "
                "layers can be divided by step sizes"
            )
        return name, ["weight"]
    check_scalable(module, name)
    return name, ["weight"] if module.bias is None else ["weight", "bias"]


def check_scalable(module: nn.Module, name: str) -> None:
    """Make sure that a module's weight and bias can hold step sizes.

    Raises:
        FoldError: the module is no affine operation that step sizes can be multiplied into.
    """
    if not isinstance(module, SCALABLE):
        raise FoldError(
            f"{name} is a {type(module).__name__}: step sizes fold only into a norm, convolution "
            "or linear layer at the end of the branch, or into a vector of scales"
        )
    weight = module.weight
    if weight is None:
        raise FoldError(
            f"{name} ({type(module).__name__}) has no weight to fold step sizes into: "
            "construct it with affine=True"
        )
    if isinstance(module, nn.LayerNorm) and weight.ndim != 1:
        raise FoldError(
            f"{name} normalises {weight.ndim} dimensions: it has no single channel axis"
        )
