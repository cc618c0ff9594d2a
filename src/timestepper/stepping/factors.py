"""The parameters that hold a stage's step sizes, and how step sizes get into them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from timestepper.errors import AttachedError, FoldError, NoBranchError
from timestepper.stepping.branches import READABLE, Branch, get_module, refuse_hooked

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)

SCALABLE = (
    nn.modules.batchnorm._NormBase,  # Batch and instance norms.
    nn.GroupNorm,
    nn.LayerNorm,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.Linear,
    *TRANSPOSED,
)
"""Modules linear in ``weight`` and ``bias`` together."""

Run = tuple[int | None, int]
"""(start, length): so many of a stage's step sizes from start on, or so many ones for None.

A stage's step sizes are counted through, branch after branch.
"""


@dataclass(frozen=True, slots=True)
class Factor:
    """One parameter that step sizes of a stage go into.

    Attributes:
        owner: name of the module that has the parameter.
        module: that module.
        name: the parameter's name there.
        inside: name of the module whose forward uses it, mostly the owner.
        divided: the step sizes divide its input columns: it reads a branch's scaled result, for
            a gate, and has to see what it saw before. Otherwise they multiply its output rows.
        runs: what its channels are multiplied or divided by, in order: the step sizes of a branch,
            of several (a norm behind a concatenation), or ones.
        single: all its channels take one step size.
    """

    owner: str
    module: nn.Module
    name: str
    inside: str
    divided: bool
    runs: tuple[Run, ...] = ()
    single: bool = False

    @property
    def parameter(self) -> Tensor:
        """The registered parameter, even while its product covers it.

        Raises:
            AttachedError: it is none any more.
        """
        parameter = self.module._parameters.get(self.name)
        if parameter is None:
            raise AttachedError(
                f"{self.owner}.{self.name} is no parameter any more (pruned or normalised after "
                "attaching, say): fold before that"
            )
        return parameter

    @property
    def along_columns(self) -> bool:
        """Step sizes belong to the weight's second dimension: ``(in, out / groups, *kernel)``."""
        transposed = isinstance(self.module, TRANSPOSED) and self.name == "weight"
        return self.divided != transposed

    @property
    def channels(self) -> int:
        """How many step sizes, or ones in their place, it takes."""
        if self.single:
            return 1
        if self.along_columns:
            return self.parameter.shape[1] * int(getattr(self.module, "groups", 1))
        if isinstance(self.module, SCALABLE):
            return self.parameter.shape[0]
        return self.parameter.numel()

    @property
    def is_vector(self) -> bool:
        """It has one value for each channel, and is multiplied."""
        return not self.along_columns and self.parameter.numel() == self.channels

    def spread(self, channels: Tensor) -> Tensor:
        """Bring one value for each channel into a shape that broadcasts with the parameter."""
        shape = self.parameter.shape
        if self.is_vector or self.single:
            return channels.view(shape if self.is_vector else [1 for _ in shape])
        if not self.along_columns:
            return channels.view(-1, *(1 for _ in shape[1:]))
        groups = int(getattr(self.module, "groups", 1))
        # Each group of rows has a run of columns of its own.
        columns = channels.view(groups, 1, shape[1]).expand(-1, shape[0] // groups, -1)
        return columns.reshape(shape[0], shape[1], *(1 for _ in shape[2:]))

    def product(self, steps: Tensor) -> Tensor:
        """Compute what the network runs with in the parameter's place.

        Args:
            steps: all step sizes of the stage, ``(depth, channels)``.
        """
        spread = self.spread(along(self.runs, steps))
        product = self.parameter / spread if self.divided else self.parameter * spread
        return product.to(self.parameter.dtype)

    def inverse(self, product: Tensor, steps: Tensor) -> Tensor:
        """Compute the parameter that has a given product."""
        spread = self.spread(along(self.runs, steps))
        return product * spread if self.divided else product / spread


def along(runs: Sequence[Run], steps: Tensor) -> Tensor:
    """Put step sizes and ones one behind the other.

    Args:
        runs: what to put there.
        steps: all step sizes of the stage, ``(depth, channels)``.

    Returns:
        A vector as long as the runs together.
    """
    flat = steps.reshape(-1)
    pieces = [
        flat.new_ones(length) if start is None else _part(flat, start, length)
        for start, length in runs
    ]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


def _part(flat: Tensor, start: int, length: int) -> Tensor:
    # The gradient of a slice is written into zeros, even where it is all there is.
    return flat if length == len(flat) else flat[start : start + length]


def merged(runs: Sequence[Run]) -> list[Run]:
    """Join runs that go on where the one before ends."""
    joined: list[Run] = []
    for start, length in runs:
        if joined:
            before, count = joined[-1]
            if start is None if before is None else start == before + count:
                joined[-1] = (before, count + length)
                continue
        joined.append((start, length))
    return joined


def channels_of(network: nn.Module, branch: Branch) -> int:
    """Tell how many step sizes a branch takes.

    Raises:
        NoBranchError: the branch names a module or parameter that the network has not.
        FoldError: step sizes do not go into one of them, or they differ in channels.
    """
    sizes = {past - first for _, first, past in _shares(network, branch)}
    if len(sizes) != 1:
        raise FoldError(
            f"branch {branch.name}: what is scaled and divided differs in channels "
            f"({sorted(sizes)}); one step size for each channel has to fit all of it"
        )
    return sizes.pop()


def factors_of(network: nn.Module, branches: Sequence[Branch]) -> list[Factor]:
    """List the parameters that hold the step sizes of a stage.

    Args:
        network: the network.
        branches: the stage's branches in order of depth, all with as many step sizes.

    Returns:
        Weights before biases, both in order of depth.

    Raises:
        NoBranchError: a branch names a module or parameter that the network has not.
        FoldError: step sizes do not go into one of them, or those of two branches into the same.
    """
    shares: dict[Factor, list[tuple[int, int, int]]] = {}
    for index, branch in enumerate(branches):
        for factor, first, past in _shares(network, branch):
            shares.setdefault(factor, []).append((first, past, index))
    factors = [replace(factor, runs=_runs(factor, s, branches)) for factor, s in shares.items()]
    return sorted(factors, key=lambda factor: factor.name, reverse=True)


def _runs(
    factor: Factor, shares: Sequence[tuple[int, int, int]], branches: Sequence[Branch]
) -> tuple[Run, ...]:
    """Lay shares, each (first channel, past the last, the branch's index), along the channels."""
    runs: list[Run] = []
    at = 0
    ordered = sorted(shares)
    for place, (first, past, index) in enumerate(ordered):
        if first < at:
            before = branches[ordered[place - 1][2]]
            raise FoldError(
                f"branches {before.name} and {branches[index].name} share {factor.owner}: one "
                "channel can't hold the step sizes of two branches"
            )
        runs += [(None, first - at), (index * (past - first), past - first)]
        at = past
    runs.append((None, factor.channels - at))
    return tuple(merged([run for run in runs if run[1]]))


def _shares(network: nn.Module, branch: Branch) -> list[tuple[Factor, int, int]]:
    """List a branch's factors, each with the first and past the last channel that it scales."""
    names = [(name, False) for name in branch.scaled] + [(name, True) for name in branch.divided]
    inside = branch.inside or (None,) * len(names)
    channels = branch.channels or (None,) * len(names)
    for said, what in ((inside, "modules"), (channels, "ranges of channels")):
        if len(said) != len(names):
            raise NoBranchError(
                f"branch {branch.name} names {len(said)} {what} for {len(names)} scaled or divided"
            )
    shares = []
    for (name, divided), place, given in zip(names, inside, channels, strict=True):
        owner, parameters = _parameters(network, name, divided)
        refuse_hooked(get_module(network, owner), owner)
        user = owner if place is None else place
        if type(get_module(network, user)).forward is nn.Module.forward:
            raise FoldError(
                f"branch {branch.name}: {user} is never called itself; name in inside the module "
                f"whose forward uses {name} ('' for the network)"
            )
        for parameter in parameters:
            module = get_module(network, owner)
            factor = Factor(owner, module, parameter, user, divided, (), branch.single)
            first, past = given or (0, factor.channels)
            if not 0 <= first < past <= factor.channels:
                raise FoldError(
                    f"branch {branch.name}: {name} has {factor.channels} channels, so there are "
                    f"none from {first} to {past}"
                )
            shares.append((factor, first, past))
    return shares


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
