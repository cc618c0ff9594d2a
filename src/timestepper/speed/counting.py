"""Parameters and multiply-accumulates of networks, plain and with step sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from timestepper.networks import create
from timestepper.stepping import attach, fold, step_sizes

IMAGE = (1, 3, 224, 224)

WHAT_IS_COUNTED = (
    "GMAC: 10⁹ multiply-accumulates of one forward pass for one image of 224×224 pixels: those of "
    "convolutions and matrix products, and products and quotients element by element (the gates "
    "of SENet, step sizes). Norms, activations, pooling and sums are not counted."
)


def _by_element(*shapes: Any, out_shape: Any, **_: Any) -> int:
    return 2 * int(prod(out_shape))


def _matrix_vector(*shapes: Any, **_: Any) -> int:
    """Count a matrix's product with a vector; a bias may stand before them."""
    return 2 * int(prod(shapes[-2]))


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


# What torch's counter leaves out, in its unit: two operations for a multiply-accumulate.
NOT_COUNTED_BY_TORCH: dict[Any, Callable[..., int]] = {
    torch.ops.aten.mul: _by_element,
    torch.ops.aten.mul_: _by_element,
    torch.ops.aten.div: _by_element,
    torch.ops.aten.div_: _by_element,
    torch.ops.aten.mv: _matrix_vector,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten.addcmul: _by_element,
    torch.ops.aten.addmv: _matrix_vector,
}


@dataclass(frozen=True, slots=True)
class Counts:
    """What a network costs.

    Attributes:
        parameters: numbers that are stored: parameters, and step sizes where they are kept.
        operations: multiply-accumulates of a forward pass, see :data:`WHAT_IS_COUNTED`.
    """

    parameters: int
    operations: int


def build_shapes(name: str, controller: str | None = None) -> nn.Module:
    """Build a network of tensors that have shapes but no memory, as counting needs no more.

    Args:
        name: see :func:`timestepper.networks.create`.
        controller: what to attach, see :func:`timestepper.attach`; by default nothing.

    Returns:
        The network, in eval mode.
    """
    with torch.device("meta"):
        network = create(name).eval()
    if controller is not None:
        attach(network, controller)
    # Unlike those on the meta device, these tensors say that they are on the CPU, which autocast
    # asks for.
    with FakeTensorMode(allow_non_fake_inputs=True):
        return network.to_empty(device="cpu")


@torch.no_grad()
def multiply_accumulates(run: Callable[[], object]) -> int:
    """Count the multiply-accumulates of what a function runs.

    Those of ``nn.LSTM`` and its like are not counted.
    """
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # its operations are not counted
    try:
        with FlopCounterMode(display=False, custom_mapping=NOT_COUNTED_BY_TORCH) as counter:
            run()
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return int(counter.get_total_flops()) // 2


def parameters(network: nn.Module) -> int:
    """Count a network's parameters."""
    return sum(parameter.numel() for parameter in network.parameters())


def count(network: nn.Module) -> Counts:
    """Count a network's parameters, and its operations for one image."""
    return Counts(parameters(network), multiply_accumulates(lambda: _run(network)))


def _run(network: nn.Module) -> None:
    network(next(network.parameters()).new_zeros(IMAGE))


@dataclass(frozen=True, slots=True)
class SteppedCounts:
    """What a network costs with step sizes.

    Attributes:
        plain: without step sizes.
        training: attached: the controllers run, and vectors of weights are multiplied.
        inference: folded.
        literal_training: the same controllers, and Eq. 13's product over every feature map.
        literal_inference: step sizes are kept, and multiplied with every feature map.
    """

    plain: Counts
    training: Counts
    inference: Counts
    literal_training: Counts
    literal_inference: Counts


def count_stepped(name: str, controller: str) -> SteppedCounts:
    """Count a network in all its forms.

    Args:
        name: see :func:`timestepper.networks.create`.
        controller: see :func:`timestepper.attach`.
    """
    plain = count(build_shapes(name))
    network = build_shapes(name, controller)
    training = count(network)
    steps = sum(map(len, step_sizes(network).values()))
    products = _features(network)
    controllers = multiply_accumulates(lambda: step_sizes(network))
    return SteppedCounts(
        plain,
        training,
        count(fold(network)),
        Counts(training.parameters, plain.operations + controllers + products),
        Counts(plain.parameters + steps, plain.operations + products),
    )


@torch.no_grad()
def _features(network: nn.Module) -> int:
    """Count the elements of all branches' results for one image: Eq. 13's products."""
    counted = 0

    def add(module: nn.Module, inputs: object, output: Tensor) -> None:
        nonlocal counted
        counted += output.numel()

    ends = [
        network.get_submodule(branch.scaled[0])
        for branch in network.time_stepping.branches  # type: ignore[union-attr]
    ]
    hooks = [end.register_forward_hook(add) for end in ends]
    _run(network)
    for hook in hooks:
        hook.remove()
    return counted
