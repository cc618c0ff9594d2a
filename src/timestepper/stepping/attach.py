"""The verbs: attach, look at the step sizes, fold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from timestepper.controllers import ControllerFactory, get_factory
from timestepper.errors import (
    AttachedError,
    ConfigurationError,
    FoldError,
    NoBranchError,
    StateError,
)
from timestepper.stepping.branches import (
    READABLE,
    Branch,
    get_module,
    is_bottleneck,
    refuse_hooked,
    weight_of,
)
from timestepper.stepping.check import check_network
from timestepper.stepping.factors import channels_of, factors_of
from timestepper.stepping.find import ExampleInput, search
from timestepper.stepping.hooks import HOOKS, EndPass, EnterBranchEnd, LeaveBranchEnd, StartPass
from timestepper.stepping.stages import TimeStepping, module_name
from timestepper.stepping.undisturbed import in_eval_mode
from timestepper.stepping.verify import require_reached

PRESERVE_ROUNDS = 100


@torch.inference_mode(False)
def attach(
    network: nn.Module,
    controller: str | float | ControllerFactory = "lstm",
    *,
    example_input: ExampleInput | None = None,
    branches: Iterable[Branch] | None = None,
    reduction: int | None = None,
    preserve: bool = False,
) -> nn.Module:
    """Give every residual branch of a network step sizes that a controller sets (paper Eq. 13).

    In place. The network keeps its class and its forward; its state dict gains keys under
    ``time_stepping.``. Build the optimizer afterwards, so that it has the controllers' parameters.
    Where the branches are found by watching a pass, a second one makes sure that the network runs
    with the step sizes.

    Args:
        network: any network with residual branches.
        controller: ``"lstm"`` (the paper's), ``"lstm+"``, ``"lstm-standardised"``, ``"2fc"``,
            ``"indp"``, a fixed step size, or a factory ``(depth, features, channels, hidden)`` of
            modules that map averaged weights ``(depth, features)`` to positive step sizes
            ``(depth, channels)``.
        example_input: what one forward pass needs: a tensor, a tuple of positional arguments or
            a dict of keyword arguments; see :func:`~timestepper.find_branches`.
        branches: the branches, instead of having them found.
        reduction: r, the controllers are C/r wide; by default 4, for bottlenecks 8 (paper,
            "Implementations").
        preserve: divide the scaled weights by the first step sizes, so that no output changes.

    Returns:
        The network.

    Raises:
        NoBranchError: no residual branch was found, one that was given does not fit, or the
            network's forward counts or indexes its children.
        AttachedError: the network has step sizes already.
        FoldError: a branch does not end in an operation that step sizes fold into exactly, two
            share one, a weight is made by a hook, or a parameter is used past its module.
        ConfigurationError: unknown controller, or one that is no module, or whose step sizes have
            another shape.
        StateError: ``preserve`` found no weights that keep the outputs.
    """
    if hasattr(network, "time_stepping"):
        raise AttachedError("the network has step sizes already: fold it before attaching again")
    factory = get_factory(controller)
    if reduction is not None and (not isinstance(reduction, int) or reduction < 1):
        raise NoBranchError(f"reduction must be a whole number of at least 1, not {reduction}")
    check_network(network)
    _refuse_attached(network)
    found, plain = (
        search(network, example_input) if branches is None else (_checked(branches), None)
    )
    if not found:
        raise NoBranchError("an empty list of branches was given: there is nothing to attach to")
    _refuse_namesakes([branch.name for branch in found], "branches")
    by_stage: dict[str, list[Branch]] = {}
    for branch in found:
        by_stage.setdefault(branch.stage, []).append(branch)
    _refuse_namesakes([module_name(stage) for stage in by_stage], "stages")
    controllers = {
        name: _make_controller(network, members, factory, reduction)
        for name, members in by_stage.items()
    }
    stepping = TimeStepping(network, found, controllers)
    _refuse_sharing(stepping)
    network.time_stepping = stepping.train(network.training)
    network.register_forward_pre_hook(StartPass())
    for stage in stepping.stages:
        for inside in dict.fromkeys(factor.inside for factor in stage.factors):
            enter = EnterBranchEnd(network, stepping, stage, inside)
            module = network.get_submodule(inside)
            module.register_forward_pre_hook(enter)
            module.register_forward_hook(LeaveBranchEnd(enter), always_call=True)
    network.register_forward_hook(EndPass(), always_call=True)  # after what uncovers its own
    try:
        if plain is not None:
            require_reached(network, stepping, example_input, plain)
        if preserve:
            with in_eval_mode(stepping):
                _divide_by_step_sizes(stepping)
    except BaseException:
        _take_away(network)
        raise
    return network


def _checked(branches: Any) -> list[Branch]:
    """Make sure that what was given are branches."""
    is_list = isinstance(branches, Iterable) and not isinstance(branches, str | Mapping)
    members = list(branches) if is_list else []
    if not is_list or not all(isinstance(member, Branch) for member in members):
        raise NoBranchError(
            "branches must be a list of timestepper.Branch, such as timestepper.find_branches "
            f"gives, not {type(branches).__name__}"
        )
    return members


def _refuse_namesakes(names: list[str], what: str) -> None:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise NoBranchError(f"two {what} are called {twice!r}: give them names of their own")


def _refuse_sharing(stepping: TimeStepping) -> None:
    """Make sure that each parameter holds step sizes once.

    Raises:
        FoldError: two of them are one.
    """
    users: dict[int, tuple[str, str]] = {}
    for stage in stepping.stages:
        for factor in stage.factors:
            name = f"{factor.owner}.{factor.name}"
            other, before = users.setdefault(id(factor.parameter), (name, stage.name))
            if (other, before) == (name, stage.name):
                continue
            if other != name:
                raise FoldError(
                    f"{other} and {name} are one parameter, which can hold the step sizes of one "
                    "branch only: give each its own, or name one of their branches"
                )
            raise FoldError(
                f"step sizes of stage {stage.name!r} and of stage {before!r} would go into {name}: "
                "it can hold those of one stage only, in one way"
            )


def _refuse_attached(network: nn.Module) -> None:
    """Make sure that no part of a network has step sizes already.

    Raises:
        AttachedError: one has.
    """
    for name, module in network.named_modules():
        if any(isinstance(hook, HOOKS) for hook in module._forward_pre_hooks.values()):
            where = f"its part {name}" if name else "the network"
            raise AttachedError(
                f"{where} has step sizes already: fold before attaching again, or attach once, to "
                "the whole"
            )


def _make_controller(
    network: nn.Module, branches: list[Branch], factory: ControllerFactory, reduction: int | None
) -> nn.Module:
    """Build a stage's controller, on the network's device and in its dtype."""
    stage = branches[0].stage
    shapes = set()
    for branch in branches:
        reads = [get_module(network, name) for name in branch.weights]
        for name, module in zip(branch.weights, reads, strict=True):
            if not isinstance(module, READABLE):
                raise NoBranchError(
                    f"branch {branch.name}: {name} is a {type(module).__name__}, but a controller "
                    "reads the weights of convolutions and linear layers"
                )
            refuse_hooked(module, name)
        features = sum(weight_of(module)[:, 0].numel() for module in reads)
        channels = channels_of(network, branch)
        shapes.add((features, channels, len(reads)))
    if len(shapes) > 1:
        raise NoBranchError(
            f"the branches of stage {stage!r} differ in averaged weights or channels "
            f"(features, channels, weights read: {sorted(shapes)}): give them stages of their own"
        )
    ((features, channels, _),) = shapes
    if reduction is None:
        reduction = 8 if is_bottleneck(reads) else 4
    # A single step size says nothing of the branch's width; the last weights do.
    width = channels if channels > 1 else len(weight_of(reads[-1]))
    controller = factory(len(branches), features, channels, max(1, width // reduction))
    if not isinstance(controller, nn.Module):
        raise ConfigurationError(
            f"the controller's factory made a {type(controller).__name__} for stage {stage!r}, not "
            "a torch.nn.Module"
        )
    reference = factors_of(network, branches)[0].parameter
    return controller.to(device=reference.device, dtype=reference.dtype)


@torch.no_grad()
def _divide_by_step_sizes(stepping: TimeStepping) -> None:
    """Change the scaled parameters so that their products are what they were.

    Some of them are read by the controller too, so that the step sizes follow the change: they are
    computed anew until they stand still.
    """
    # All stages together: a controller may read a weight that another stage scales.
    stages = stepping.stages
    originals = [[factor.parameter.clone() for factor in stage.factors] for stage in stages]
    steps = [stage.step_sizes() for stage in stages]
    for stage, step in zip(stages, steps, strict=True):
        if not (step > 0).all():
            raise StateError(
                f"preserve=True divides by step sizes, but stage {stage.name!r} has some that are "
                "not positive; attach without it"
            )
    for _ in range(PRESERVE_ROUNDS):
        for stage, of_stage, step in zip(stages, originals, steps, strict=True):
            for factor, original in zip(stage.factors, of_stage, strict=True):
                factor.parameter.copy_(factor.inverse(original, step))
        before, steps = steps, [stage.step_sizes() for stage in stages]
        moving = [
            stage.name
            for stage, now, then in zip(stages, steps, before, strict=True)
            if not torch.allclose(now, then, rtol=4 * torch.finfo(now.dtype).eps, atol=0)
        ]
        if not moving:
            return
    for stage, of_stage in zip(stages, originals, strict=True):
        for factor, original in zip(stage.factors, of_stage, strict=True):
            factor.parameter.copy_(original)
    raise StateError(
        f"preserve=True: the step sizes of stage {moving[0]!r} follow the weights that are "
        "divided by them without end; attach without it"
    )


def stepping_of(network: nn.Module) -> TimeStepping:
    """Return what was attached to a network.

    Raises:
        AttachedError: nothing was, or something that has step sizes was replaced.
    """
    stepping = getattr(network, "time_stepping", None)
    if not isinstance(stepping, TimeStepping):
        inside = next((n for n, m in network.named_modules() if isinstance(m, TimeStepping)), None)
        raise AttachedError(
            "the network has no step sizes: call timestepper.attach(network) first"
            if inside is None
            else f"{type(network).__name__} has no step sizes of its own, but what is inside has: "
            f"name that, .{inside.rpartition('.')[0]}"
        )
    stepping.require_own_controllers()
    for stage in stepping.stages:
        stage.require_inside(network)
    return stepping


@torch.no_grad()
def step_sizes(network: nn.Module) -> dict[str, Tensor]:
    """Compute the step sizes of an attached network as they are now, controllers in eval mode.

    Returns:
        Δt by branch in order of depth, each of shape ``(channels,)``, detached.

    Raises:
        AttachedError: the network is not attached.
    """
    stepping = stepping_of(network)
    with in_eval_mode(stepping):
        steps = {
            branch.name: row.clone()
            for stage in stepping.stages
            for branch, row in zip(stage.branches, stage.step_sizes(), strict=True)
        }
    return {branch.name: steps[branch.name] for branch in stepping.branches}


@torch.no_grad()
def evolution_time(network: nn.Module) -> dict[str, float]:
    """Compute the evolution time T = Σ Δt_d of each stage, averaged over channels (paper Eq. 9).

    Controllers run in eval mode.

    Returns:
        T by stage, in order of depth.

    Raises:
        AttachedError: the network is not attached.
    """
    stepping = stepping_of(network)
    with in_eval_mode(stepping):
        return {s.name: s.step_sizes().sum(0).mean().item() for s in stepping.stages}


@torch.no_grad()
def fold(network: nn.Module) -> nn.Module:
    """Multiply the step sizes into the network's weights and throw the controllers away.

    In place. Afterwards the network is what it was before attaching: same class, same state-dict
    keys, no hook; in eval mode its outputs are bit for bit those of the attached network.

    Returns:
        The network.

    Raises:
        AttachedError: the network is not attached.
        FoldError: two parameters that hold step sizes have become one.
    """
    stepping = stepping_of(network)
    _refuse_sharing(stepping)
    # All products come first: a controller may read a weight that another stage scales.
    with in_eval_mode(stepping):
        computed = [stage.compute_products() for stage in stepping.stages]
    for stage, products in zip(stepping.stages, computed, strict=True):
        for factor, product in zip(stage.factors, products, strict=True):
            factor.parameter.copy_(product)
    _take_away(network)
    return network


def _take_away(network: nn.Module) -> None:
    """Remove controllers and hooks."""
    for stage in stepping_of(network).stages:
        for factor in stage.factors:
            # Still covered where Ctrl-C ended a pass, which no hook hears of.
            factor.module.__dict__.pop(factor.name, None)
    del network.time_stepping
    for module in network.modules():
        for hooks in (module._forward_pre_hooks, module._forward_hooks):
            for key in [key for key, hook in hooks.items() if isinstance(hook, HOOKS)]:
                del hooks[key]
                module._forward_hooks_always_called.pop(key, None)


def load_weights(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load a state dict and say in one line what does not fit.

    Args:
        network: plain or attached. Plain weights load into an attached network too: its
            controllers then stay as they are.
        state: tensors by name.

    Raises:
        StateError: it is no state dict, names are missing or left over, shapes differ, or there is
            anything but finite real numbers; the network is unchanged.
    """
    if not isinstance(state, Mapping):
        raise StateError(f"weights are tensors by name, a state dict, not a {type(state).__name__}")
    own = network.state_dict()
    wanted = set(own)
    if not any(str(name).startswith("time_stepping.") for name in state):
        wanted = {name for name in own if not name.startswith("time_stepping.")}
    problems = [f"{name} is missing" for name in own if name in wanted and name not in state]
    problems += [f"{name!r} is not in the network" for name in state if name not in own]
    given = {name: state[name] for name in own if name in state}
    for name, tensor in given.items():
        problems += _misfit(name, tensor, own[name])
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise StateError(f"the weights belong to another network: {problems[0]}{more}")
    for name, tensor in given.items():
        if not tensor.to(own[name].dtype).isfinite().all():
            raise StateError(f"the weights are broken: {name} has values that are not finite")
    network.load_state_dict(state, strict=False)


def _misfit(name: str, given: Any, own: Tensor) -> list[str]:
    """Say why a tensor can't take another's place, if there is a reason."""
    if not isinstance(given, Tensor):
        return [f"{name} is no tensor but {type(given).__name__}"]
    if given.shape != own.shape:
        return [f"{name} is {tuple(given.shape)} where the network has {tuple(own.shape)}"]
    if given.is_floating_point() != own.is_floating_point() or given.is_complex():
        return [f"{name} is {given.dtype} where the network has {own.dtype}"]
    return []
