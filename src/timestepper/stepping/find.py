"""Find the residual branches of a network: group what the watched forward pass shows."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import permutations
from typing import Any

import torch
from torch import Tensor, nn

from timestepper.errors import FoldError, NoBranchError
from timestepper.stepping.branches import READABLE, Branch
from timestepper.stepping.check import check_network
from timestepper.stepping.dense import dense_layers, describe_dense
from timestepper.stepping.factors import channels_of
from timestepper.stepping.residuals import Finding, common_prefix, residuals, unread_joins
from timestepper.stepping.stages import TimeStepping, module_name
from timestepper.stepping.watch import Trace, watch

ExampleInput = Tensor | tuple[Any, ...] | Mapping[str, Any]
"""One tensor, or a forward pass's positional (tuple) or keyword (mapping) arguments."""


def find_branches(
    network: nn.Module, example_input: ExampleInput | None = None, *, skip_unfoldable: bool = False
) -> list[Branch]:
    """Find residual branches by watching one forward pass.

    An addition ``x + f`` with f computed from x, or both from one earlier tensor and f by more
    weights, is a residual connection; what else is computed from x and added at once, as in
    ``x + f + g``, belongs to the branch. So is a concatenation of all features so far with new ones
    computed from them, layer after layer (DenseNet). The pass runs in eval mode without gradients
    and leaves parameters, buffers, modes and random state as they were. A network that can't be
    watched so names its branches in a method ``residual_branches() -> list[Branch]`` instead.

    Args:
        network: the network; an attached one tells its branches.
        example_input: what one forward pass needs: a tensor, a tuple of positional arguments or a
            dict of keyword arguments; by default random numbers of the size in the network's
            ``pretrained_cfg`` or ``default_cfg``, else of shape (1, 3, 64, 64).
        skip_unfoldable: leave out branches that step sizes do not fold into exactly.

    Returns:
        The branches in order of depth.

    Warns of what looks like a residual connection but is no such addition (``x - f``, say).

    Raises:
        NoBranchError: the network is wrapped or has no values yet, the forward pass failed or made
            no residual addition, or none is left.
        FoldError: a branch does not end in an operation that step sizes fold into exactly.
    """
    return search(network, example_input, skip_unfoldable=skip_unfoldable)[0]


def search(
    network: nn.Module, example_input: ExampleInput | None, *, skip_unfoldable: bool = False
) -> tuple[list[Branch], Any]:
    """Find residual branches as :func:`find_branches` does, with its arguments and errors.

    Returns:
        The branches, and the signature of the pass that was watched, None where none was.
    """
    check_network(network)
    if hasattr(network, "residual_branches"):
        return list(network.residual_branches()), None  # type: ignore[operator]
    if isinstance(stepping := getattr(network, "time_stepping", None), TimeStepping):
        return list(stepping.branches), None
    trace = watch(network, *inputs_of(network, example_input))
    found, dense = list(residuals(trace)), dense_layers(trace)
    if not found and not dense:
        _warn_of_others(trace, [])
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
    _warn_of_others(trace, [finding for finding, _ in described])
    steps.sort(key=lambda step: step[0])
    branches = [branch for _, branch, _, _ in steps]
    names = _distinct(
        [branch.name for branch in branches],
        [own_name for *_, own_name in steps],
        [branch.scaled[0] for branch in branches],
        [_with_first_channel(branch) for branch in branches],
    )
    stages = _stage_names([likeness for _, _, likeness, _ in steps], names)
    named = [
        replace(branch, name=name, stage=stage)
        for branch, name, stage in zip(branches, names, stages, strict=True)
    ]
    return named, trace.signature


def inputs_of(
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
    images = torch.randn(1, *size, generator=generator, device="cpu")
    return (images.to(parameter.device, parameter.dtype),), {}


def _warn_of_others(trace: Trace, described: Sequence[Finding]) -> None:
    """Name what looks like a residual connection, is no part of a branch and gets no step sizes."""
    ways = {index for finding in described if finding.end for index in finding.end.way}
    others = [join for join in unread_joins(trace) if join.index not in ways]
    places = dict.fromkeys(join.module or "the network itself" for join in others)
    if places:
        first, *more = places
        rest = f" and {len(more)} more" if more else ""
        warnings.warn(
            f"what {first}{rest} joins to its state gets no step sizes: it is no plain sum of "
            "tensors of one shape; write it as x + f",
            stacklevel=4,
        )


def _why_none(trace: Trace) -> str:
    """Say why no residual branch was found."""
    owners = {owner for operation in trace.operations for owner, _ in operation.parameters}
    unread = {
        type(module).__name__
        for module in map(trace.network.get_submodule, owners)
        if not isinstance(module, READABLE)
        and not type(module).__module__.startswith("torch.nn.")
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


_Described = tuple[Finding, Branch]


def _describe(found: Sequence[Finding]) -> tuple[list[_Described], list[FoldError]]:
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
                # A sum within another's body is a part of it, and no step beside it.
                if any(one.feeds(other) for one, other in permutations([finding, *same], 2)):
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
    groups: dict[Branch, list[_Described]] = {}
    for finding, branch in described:
        # All but the names: additions may take parts of one result, each with its own step sizes.
        key = replace(branch, name="", stage="")
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


def _with_first_channel(branch: Branch) -> str:
    """Name a branch after what it scales and the first channel of its own."""
    first, _ = (branch.channels and branch.channels[0]) or (0, 0)
    return f"{branch.scaled[0]}.{first}"


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
        prefix = common_prefix(parts) if len(members) > 1 else parts[0][:-1]
        return ".".join(prefix) or members[0]

    def with_end(members: list[str]) -> str:
        start = f"{plain(members)}."
        backwards = [name.removeprefix(start).split(".")[::-1] for name in members]
        end = ".".join(reversed(common_prefix(backwards)))
        return start + end if end and members[0].startswith(start) else members[0]

    first = [members[0] for members in stages.values()]
    ended = [with_end(members) for members in stages.values()]
    # The last one is for a stage whose name is another's first branch.
    names = _distinct([plain(members) for members in stages.values()], ended, first, first)
    of_likeness: dict[Any, str] = {}
    for likeness, name in zip(stages, names, strict=True):
        # Dots become underscores in the names of controllers.
        taken = {module_name(other) for other in of_likeness.values()}
        while module_name(name) in taken:
            name += "_"
        of_likeness[likeness] = name
    return [of_likeness[likeness] for likeness in likenesses]
