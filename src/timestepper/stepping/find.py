"""Find the residual branches of a network: group what the watched forward pass shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from timestepper.errors import FoldError, NoBranchError
from timestepper.stepping.branches import (
    READABLE,
    Branch,
    is_pointwise,
    weight_of,
)
from timestepper.stepping.check import check_network
from timestepper.stepping.dense import dense_layers, describe_dense
from timestepper.stepping.ends import End, EndFinder
from timestepper.stepping.factors import channels_of
from timestepper.stepping.operators import (
    ADDITIONS,
    CONVOLUTIONS,
    HOMOGENEOUS,
    MATRIX_PRODUCTS,
    MOVING,
    POOLING,
    PRODUCTS,
    QUOTIENTS,
    REDUCING,
)
from timestepper.stepping.watch import Operation, Trace, watch

# Attention is told from an MLP of the same shapes.
ATTENDING = ("bmm", "baddbmm", "softmax", "scaled_dot_product")

ExampleInput = Tensor | tuple[Any, ...] | Mapping[str, Any]
"""One tensor, or a forward pass's positional (tuple) or keyword (mapping) arguments."""


def find_branches(
    network: nn.Module, example_input: ExampleInput | None = None, *, skip_unfoldable: bool = False
) -> list[Branch]:
    """Find residual branches by watching one forward pass.

    An addition ``x + f`` with f computed from x, or both from one earlier tensor and f by more
    weights, is a residual connection; so is a concatenation of all features so far with new ones
    computed from them, layer after layer (DenseNet). The pass runs in eval mode without gradients
    and leaves parameters, buffers, modes and random state as they were. A network that can't be
    watched so names its branches in a method ``residual_branches() -> list[Branch]`` instead.

    Args:
        network: the network, attached or plain.
        example_input: what one forward pass needs: a tensor, a tuple of positional arguments or a
            dict of keyword arguments; by default random numbers of the size in the network's
            ``pretrained_cfg`` or ``default_cfg``, else of shape (1, 3, 64, 64).
        skip_unfoldable: leave out branches that step sizes do not fold into exactly.

    Returns:
        The branches in order of depth.

    Raises:
        NoBranchError: the network is wrapped or has no values yet, the forward pass failed or made
            no residual addition, or none is left.
        FoldError: a branch does not end in an operation that step sizes fold into exactly.
    """
    check_network(network)
    if hasattr(network, "residual_branches"):
        return list(network.residual_branches())  # type: ignore[operator]
    trace = watch(network, *_inputs(network, example_input))
    found, dense = list(_residuals(trace)), dense_layers(trace)
    if not found and not dense:
        raise NoBranchError(_why_none(trace))
    described, refusals = _describe(found)
    described, more_refusals = _join_shared(trace, described)
    refusals += more_refusals
    steps: list[tuple[int, Branch, Any, str]] = []
    for finding, branch in described:
        try:
            likeness: Any = finding.likeness, channels_of(network, branch)
            steps.append((finding.addition.index, branch, likeness, finding.own_name))
        except FoldError as error:
            refusals.append(error)
    taken = {name for _, branch, _, _ in steps for name in (*branch.scaled, *branch.divided)}
    for layer in dense:
        try:
            branch, likeness = describe_dense(trace, layer)
            shared = [name for name in (*branch.scaled, *branch.divided) if name in taken]
            if shared:
                raise FoldError(
                    f"dense layer {branch.name}: {shared[0]} holds the step sizes of a residual "
                    "branch already"
                )
            likeness = likeness, channels_of(network, branch)
            steps.append((layer.features, branch, likeness, branch.name))
        except FoldError as error:
            refusals.append(error)
    if refusals and not skip_unfoldable:
        raise FoldError(
            f"{refusals[0]}; branches=timestepper.find_branches(network, skip_unfoldable=True) "
            "leaves out what does not fold"
        )
    if not steps:
        raise NoBranchError(f"step sizes fold into none of the residual branches: {refusals[0]}")
    steps.sort(key=lambda step: step[0])
    branches = [branch for _, branch, _, _ in steps]
    names = _distinct(
        [branch.name for branch in branches],
        [own_name for *_, own_name in steps],
        [branch.scaled[0] for branch in branches],
    )
    stages = _stage_names([likeness for _, _, likeness, _ in steps], names)
    return [
        replace(branch, name=name, stage=stage)
        for branch, name, stage in zip(branches, names, stages, strict=True)
    ]


def _inputs(
    network: nn.Module, example_input: ExampleInput | None
) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    """Make a forward pass's positional and keyword arguments."""
    if isinstance(example_input, Mapping):
        return (), example_input
    if example_input is not None:
        return (example_input if isinstance(example_input, tuple) else (example_input,)), {}
    config = getattr(network, "pretrained_cfg", None) or getattr(network, "default_cfg", None)
    size = tuple((config or {}).get("input_size", (3, 64, 64)))
    parameter = next((p for p in network.parameters() if p.is_floating_point()), torch.empty(0))
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(1, *size, generator=generator)
    return (images.to(parameter.device, parameter.dtype),), {}


def _residuals(trace: Trace) -> Iterator[_Finding]:
    """Yield each residual addition."""
    for addition in trace.operations:
        if addition.kind not in ADDITIONS or len(addition.inputs) != 2 or not addition.plain_sum:
            continue
        first, second = addition.inputs
        common = trace.newest_common(first, second)
        if common is None or first == second:
            continue
        weights = {
            end: len(trace.modules_between(common, end, READABLE)) for end in (first, second)
        }
        shortcut, body = sorted((first, second), key=lambda end: (end != common, weights[end]))
        # Two long paths of any lengths are two branches of an ordinary block.
        if weights[body] > weights[shortcut] and _is_shortcut(trace, common, shortcut):
            yield _Finding(trace, addition, trace.operations[body], common)


def _why_none(trace: Trace) -> str:
    """Say why no residual branch was found."""
    owners = {owner for operation in trace.operations for owner, _ in operation.parameters}
    unread = {
        type(module).__name__
        for module in map(trace.network.get_submodule, owners)
        if not isinstance(module, READABLE)
        and any(parameter.ndim > 1 for parameter in module.parameters(recurse=False))
    }
    reason = (
        "none of its additions joins a tensor with something computed from it by layers whose "
        "weights a controller can read"
    )
    if unread:
        reason += (
            f"; it has layers of class {', '.join(sorted(unread))}: exchange them for torch.nn's"
        )
    return (
        f"no residual branch was found in {type(trace.network).__name__}: {reason}; or name the "
        "branches with branches=[...]"
    )


def _is_shortcut(trace: Trace, start: int, end: int) -> bool:
    """Tell whether a path moves or pools values at most, or projects them with one layer.

    Only a projection may have an activation (pre-activation networks), and it has to be made for
    the addition alone.
    """
    layers, activations = 0, 0
    for operation in trace.between(start, end):
        if operation.parameters and operation.uses_input == 1:
            layers += operation.kind in CONVOLUTIONS | MATRIX_PRODUCTS
        elif operation.kind in HOMOGENEOUS | REDUCING:
            activations += "relu" in operation.kind
        elif operation.kind not in MOVING | POOLING and not (
            operation.kind in PRODUCTS | QUOTIENTS and operation.uses_input == 1
        ):
            return False
    if layers == 1:
        return len(trace.operations[end].consumers) == 1
    return layers + activations == 0


class _Finding:
    """One residual addition and what is to be known of its branch."""

    def __init__(self, trace: Trace, addition: Operation, body: Operation, common: int) -> None:
        self.trace = trace
        self.addition = addition
        self.body = body
        self.site = addition.module
        self.common = common
        self.layers = list(trace.modules_between(common, body.index, READABLE))
        self.shape = addition.shape
        self.end: End | None = None
        self.together = [self]

    @cached_property
    def ends(self) -> frozenset[int]:
        """The operations that the branch ends in; none where it does not fold."""
        finder = EndFinder(
            self.trace, [self.addition.index], [self.body.index], [self.common], self.own_name
        )
        try:
            finder.go_back()
        except FoldError:
            return frozenset()
        return frozenset(finder.ends)

    def join(self, others: Iterable[_Finding]) -> None:
        """Make one branch of this and others that end in the same operations."""
        self.together = [self, *others]
        self.layers = [layer for finding in self.together for layer in finding.layers]

    @property
    def own_name(self) -> str:
        """What the names of the branch's layers begin with."""
        return ".".join(_common_prefix([name.split(".") for name in self.layers])) or self.layers[0]

    @property
    def read(self) -> dict[str, nn.Module]:
        """The modules that the controller reads: those up to the end, not a gate behind it."""
        assert self.end is not None
        modules: dict[str, nn.Module] = {}
        for index in sorted(self.end.ends):
            for finding in self.together:
                modules |= self.trace.modules_between(finding.common, index, READABLE)
        return _choose_read(modules)

    @property
    def likeness(self) -> Any:
        """What branches of one stage have in common."""
        averages = tuple(weight_of(module)[:, 0].shape for module in self.read.values())
        attends = any(
            operation.short_name.startswith(ATTENDING)
            for operation in self.trace.between(self.common, self.body.index)
        )
        assert self.end is not None
        return averages, self.shape[1:], attends, self.end.single

    def branch(self, *, alone: bool) -> tuple[Branch, frozenset[int]]:
        """Describe the branch; ``alone`` where its module makes no other residual addition.

        Returns:
            The branch, and the operations from what is scaled to where it is added.
        """
        name = self.site if alone and self.site else self.own_name
        joins, bodies, starts = zip(
            *((f.addition.index, f.body.index, f.common) for f in self.together), strict=True
        )
        try:
            end = EndFinder(self.trace, joins, bodies, starts, name).find()
        except FoldError as refusal:
            try:
                end = EndFinder(self.trace, joins, bodies, starts, name, single=True).find()
            except FoldError:
                raise refusal from None
        self.end = end
        if not self.read:
            raise FoldError(
                f"branch {name} ends in {end.scaled[0]} before any layer whose weights a "
                "controller can read"
            )
        return end.branch(name, tuple(self.read)), end.way.union(joins)


_Described = tuple[_Finding, Branch]


def _choose_read(modules: dict[str, nn.Module]) -> dict[str, nn.Module]:
    """Leave out what a bottleneck does between its pointwise ends (paper, "Implementations")."""
    names = list(modules)
    pointwise = [is_pointwise(module) for module in modules.values()]
    if len(names) > 2 and pointwise[0] and pointwise[-1] and not all(pointwise):
        names = [names[0], names[-1]]
    return {name: modules[name] for name in names}


def _describe(found: Sequence[_Finding]) -> tuple[list[_Described], list[FoldError]]:
    """Describe the branches, leaving out additions within the end of another branch.

    Branches that end in the same operations, on features of several sizes, say, become one.
    """
    sites = Counter(site for site, _ in {(f.site, tuple(f.layers)) for f in found})
    described: list[_Described] = []
    refusals: list[FoldError] = []
    ends: set[int] = set()
    for finding in reversed(found):
        if finding.addition.index in ends:
            continue
        try:
            try:
                branch, way = finding.branch(alone=sites[finding.site] == 1)
            except FoldError:
                same = [f for f in found if f is not finding and f.ends & finding.ends]
                if not all(f.ends == finding.ends for f in same) or not same:
                    raise
                finding.join(same)
                branch, way = finding.branch(alone=False)
        except FoldError as error:
            refusals.append(error)
        else:
            ends |= way
            described.append((finding, branch))
    return described[::-1], refusals[::-1]


def _join_shared(
    trace: Trace, described: Sequence[_Described]
) -> tuple[list[_Described], list[FoldError]]:
    """Make one branch of those with all parameters in common: they share step sizes too.

    Refused is what puts step sizes into a parameter that is used elsewhere too.
    """
    groups: dict[Any, list[_Described]] = {}
    for finding, branch in described:
        key = branch.weights, branch.scaled, branch.divided
        groups.setdefault(key, []).append((finding, branch))
    joined: list[_Described] = []
    refusals: list[FoldError] = []
    for members in groups.values():
        finding, branch = members[0]
        assert finding.end is not None
        often = [use for use in sorted(finding.end.uses) if trace.uses[use] > len(members)]
        if often:
            owner, parameter = often[0]
            refusals.append(
                FoldError(
                    f"branch {branch.name}: the {parameter} of {owner or 'the network itself'} is "
                    f"used {trace.uses[owner, parameter]} times, so step sizes there would change "
                    "more than the branch"
                )
            )
        else:
            joined.append((finding, branch))
    return joined, refusals


def _common_prefix(parts: Sequence[Sequence[str]]) -> list[str]:
    prefix = []
    for column in zip(*parts, strict=False):
        if len(set(column)) > 1:
            break
        prefix.append(column[0])
    return prefix


def _distinct(names: Sequence[str], *alternatives: Sequence[str]) -> list[str]:
    """Exchange names that several have for the first alternative that tells them apart."""
    for others in alternatives:
        taken = Counter(names)
        names = [
            other if taken[name] > 1 else name for name, other in zip(names, others, strict=True)
        ]
    return list(names)


def _stage_names(likenesses: Sequence[Any], branches: Sequence[str]) -> list[str]:
    """Name each run of like branches after what its branches' names begin with."""
    stages: dict[Any, list[str]] = {}
    for likeness, branch in zip(likenesses, branches, strict=True):
        stages.setdefault(likeness, []).append(branch)

    def plain(members: list[str]) -> str:
        parts = [name.split(".") for name in members]
        prefix = _common_prefix(parts) if len(members) > 1 else parts[0][:-1]
        return ".".join(prefix) or members[0]

    def with_end(members: list[str]) -> str:
        start = f"{plain(members)}."
        backwards = [name.removeprefix(start).split(".")[::-1] for name in members]
        end = ".".join(reversed(_common_prefix(backwards)))
        return start + end if end and members[0].startswith(start) else members[0]

    first = [members[0] for members in stages.values()]
    ended = [with_end(members) for members in stages.values()]
    # The last one is for a stage whose name is another's first branch.
    names = _distinct([plain(members) for members in stages.values()], ended, first, first)
    of_likeness = dict(zip(stages, names, strict=True))
    return [of_likeness[likeness] for likeness in likenesses]
