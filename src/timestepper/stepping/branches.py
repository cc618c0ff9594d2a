"""What a residual branch is, and how its weights are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.autograd.function import FunctionCtx
from torch.nn.utils.parametrize import is_parametrized
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from timestepper.controllers.transforms import in_a_transform
from timestepper.errors import FoldError, NoBranchError

READABLE = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
"""Modules whose weights a controller reads: ``(out, in, *kernel)``."""


BY_HOOKS = ("weight_orig", "weight_g", "weight_v")
"""What torch.nn.utils' pruning and older normalisations keep in a weight's place."""


@dataclass(frozen=True, slots=True)
class Branch:
    """One residual branch: one Euler step of the network.

    Attributes:
        name: the module whose forward makes the addition, such as ``"layer1.0"``; where one module
            makes several, the branch's own submodule, such as ``"blocks.0.attn"``.
        stage: the run of like branches that share a controller, such as ``"layer1"``.
        weights: names of the modules whose weights the controller reads, in order of execution.
        scaled: what ends the branch and takes the step sizes: names of modules, whose weight and
            bias are meant, or of parameters with one value for each channel (LayerScale). Several
            where the branch ends in a sum; one name may be given as a string.
        divided: names of the modules that read the scaled result for a gate and have to see what
            they saw before: their input columns are divided by the step sizes.
        inside: for each of ``scaled`` and ``divided`` the module whose forward uses its
            parameters, ``""`` for the network's own; empty where that is the parameters' owner.
        channels: for each of ``scaled`` and ``divided`` the channels that take the step sizes,
            (first, past the last), or None for all; empty where it is all of each. Branches of
            one stage may scale different channels of one parameter.
        single: the branch has one step size for all channels, as in Eq. 1: something in it, such
            as a gate that mixes channels, gives those of Eq. 13, one for each, no place.
    """

    name: str
    stage: str
    weights: tuple[str, ...]
    scaled: tuple[str, ...]
    divided: tuple[str, ...] = ()
    inside: tuple[str, ...] = ()
    channels: tuple[tuple[int, int] | None, ...] = ()
    single: bool = False

    def __post_init__(self) -> None:
        """Take one name for a tuple of one."""
        scaled: object = self.scaled
        if isinstance(scaled, str):
            object.__setattr__(self, "scaled", (scaled,))


def get_module(network: nn.Module, name: str) -> nn.Module:
    """Look a submodule up by its dotted name.

    Raises:
        NoBranchError: there is no such submodule.
    """
    try:
        return network.get_submodule(name)
    except AttributeError:
        raise NoBranchError(f"the network has no module {name!r}, which a branch names") from None


def weight_of(module: nn.Module) -> Tensor:
    """Return a module's weight, ``(out, in, *kernel)`` or ``(channels,)``.

    The registered one: a product may cover it while a branch runs. A parametrized one is computed:
    ``parametrize.cached`` would keep it for the branch, which has to compute another.
    """
    weight = module._parameters.get("weight")
    if weight is None and is_parametrized(module, "weight"):
        weight = module.parametrizations.weight()  # type: ignore[union-attr, operator]
    elif weight is None:
        weight = module.weight  # type: ignore[assignment]
    assert isinstance(weight, Tensor)
    return weight


def address_of(tensor: Tensor) -> int:
    """Tell where values lie, which assigning to ``.data`` changes, or 0 where they lie nowhere."""
    try:
        return tensor.data_ptr()
    except RuntimeError:
        return 0


def refuse_hooked(module: nn.Module, name: str) -> None:
    """Make sure that a module's weight is not made by a hook before each of its passes.

    Raises:
        FoldError: it is, so that it can be neither read nor scaled before.
    """
    made_of = next((own for own in BY_HOOKS if own in module._parameters), None)
    if made_of is not None:
        raise FoldError(
            f"the weight of {name} is made of its {made_of} by a hook (it was pruned or normalised "
            "by torch.nn.utils): make that permanent first (prune.remove, remove_weight_norm, "
            "remove_spectral_norm), or use torch.nn.utils.parametrizations"
        )


def is_bottleneck(weights: Sequence[nn.Module]) -> bool:
    """Tell whether only pointwise convolutions are read (paper, "Implementations")."""
    return all(is_pointwise(module) for module in weights)


def is_pointwise(module: nn.Module) -> bool:
    """Tell a 1×1 convolution from other convolutions and from linear layers."""
    return not isinstance(module, nn.Linear) and set(module.kernel_size) == {1}  # type: ignore[arg-type]


def average_weights(per_branch: int, weights: Sequence[Tensor]) -> Tensor:
    """Average ``weights`` (out, in, *kernel) and concatenate each ``per_branch`` of them.

    Returns:
        ``(depth, features)``: row d holds w̄_d, its weights' averages one after the other.
    """
    differentiable = torch.is_grad_enabled() and any(weight.requires_grad for weight in weights)
    traced = torch.jit.is_tracing()  # type: ignore[attr-defined]
    if differentiable and forward_ad._current_level < 0 and not traced:
        result: Tensor = _AverageWeights.apply(per_branch, *weights)
        return result
    return _average(per_branch, weights)


GPU = "cuda"
"""The type of the devices that average with a kernel."""
PLAIN = (Tensor, nn.Parameter)
_HAS_TRITON = find_spec("triton") is not None


def _fit_a_kernel(weights: Sequence[Tensor]) -> bool:
    """Tell whether all lie at an address of one GPU, and nothing has to see torch's operations."""
    first = weights[0]
    return (
        first.device.type == GPU
        and first.dtype in (torch.float32, torch.float64)
        and _HAS_TRITON
        and not in_a_transform()
        and (torch.compiler.is_compiling() or not is_in_torch_dispatch_mode())
        and all(
            type(weight) in PLAIN and weight.device == first.device and weight.dtype == first.dtype
            for weight in weights
        )
    )


def in_turn(weights: Sequence[Tensor]) -> Tensor:
    """Average ``weights`` (out, in, *kernel), one behind the other, in torch's operations."""
    return torch.cat([weight.mean(1).flatten() for weight in weights])


def _average(per_branch: int, weights: Sequence[Tensor]) -> Tensor:
    averages = _by_a_kernel(weights) if _fit_a_kernel(weights) else in_turn(weights)
    return averages.view(len(weights) // per_branch, -1)


def _by_a_kernel(weights: Sequence[Tensor]) -> Tensor:
    """Import what there is for GPUs only where it is used: it takes Triton and time."""
    from timestepper.stepping import average_triton

    if torch.compiler.is_compiling():
        averages: Tensor = average_triton.average_operator(list(weights))
        return averages
    return average_triton.average(weights)


class _AverageWeights(torch.autograd.Function):
    """Hands the gradient of a mean, constant along the input dimension, back as an expanded view.

    Autograd itself would write it out for each weight.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(per_branch: int, *weights: Tensor) -> Tensor:
        """See :func:`average_weights`."""
        return _average(per_branch, weights)

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep the shapes; apart from ``forward``, as ``torch.func`` wants it."""
        ctx.shapes = [weight.shape for weight in inputs[1:]]  # type: ignore[attr-defined]

    @staticmethod
    def backward(ctx: FunctionCtx, *grad_outputs: Any) -> Any:
        """Spread each average's gradient evenly over the input dimension."""
        grad: Tensor = grad_outputs[0].reshape(-1)
        shapes: list[torch.Size] = ctx.shapes  # type: ignore[attr-defined]
        lengths = [shape.numel() // shape[1] for shape in shapes]
        # A stage's weights have a few numbers of inputs: divide all by each, not each by its own.
        divided = {inputs: (grad / inputs).split(lengths) for inputs in {s[1] for s in shapes}}
        grads = [
            divided[shape[1]][n].view(shape[0], 1, *shape[2:]).expand(shape)
            for n, shape in enumerate(shapes)
        ]
        return None, *grads
