"""How large the gradient of the loss is along depth (paper Eq. 8)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from timestepper.errors import StabilityError
from timestepper.stability.apart import copy_of, outside_modes
from timestepper.stability.depth import Depth, describe_depth, states_of
from timestepper.stability.plain import plain
from timestepper.stability.unrolled import require_inputs, unroll, unstepped
from timestepper.stepping import Branch, attach, find_branches, fold, load_weights


@dataclass(frozen=True, slots=True)
class GradientFlow:
    """Norms of ∂L/∂y_n along depth.

    Attributes:
        depth: where the states y_0 … y_D lie.
        norms: ‖∂L/∂y_n‖₂ of each state: the mean over images of the norms of their own.
    """

    depth: Depth
    norms: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON has it; infinite norms and NaN as None."""
        record: dict[str, Any] = plain({**asdict(self.depth), "norms": self.norms})
        return record


@outside_modes()
def gradient_flow(
    network: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    *,
    step_size: float | None = None,
    branches: Iterable[Branch] | None = None,
) -> GradientFlow:
    """Measure ‖∂L/∂y_n‖₂ of the states y_0 … y_D, with y_{d+1} = y_d + Δt_d ⊗ F(y_d, w_d).

    L is an image's own cross-entropy; the norms are averaged over the images, so that they don't
    depend on how many there are. Weights and running statistics stay as they are with whatever
    steps: nothing is trained anew.

    Args:
        network: attached, folded or plain, in eval mode; it stays as it is.
        inputs: a batch, ``(n, channels, height, width)`` for images.
        labels: int64 ``(n,)``.
        step_size: a fixed h in the place of a controller's step sizes, or times a plain network's
            branches (1 is the plain network itself); by default the network as it is.
        branches: the branches, as :func:`~timestepper.stability.unrolled.unroll` takes them.

    Raises:
        NoBranchError: no residual branch was found.
        ConfigurationError: the step size is not a positive finite number.
        StabilityError: the network can't be unrolled, or the labels are not those of its inputs.
    """
    if step_size is not None:
        network = with_step_size(network, step_size, inputs, branches)
        branches = None
    unrolled = unroll(network, inputs, branches)
    # Tokens have no gradient; y_0, which is made of them, has.
    start = 0 if inputs.is_floating_point() else unrolled.input_state
    known = unrolled.evaluate(inputs) if start else {0: inputs}
    with torch.enable_grad():
        known[start] = known[start].detach().clone().requires_grad_()
        values = unrolled.run(known, start, [unrolled.output])
        states = states_of(unrolled, values)
        outputs = values[unrolled.output]
        _check_labels(outputs, labels)
        # In float64: the difference of a probability from 1 would soon be 0 in float32. Of the
        # sum over images, each has its own loss's gradient. Labels made in inference mode can't be
        # saved for backward.
        loss = nn.functional.cross_entropy(outputs.double(), labels.clone(), reduction="sum")
        gradients = torch.autograd.grad(loss, states)
    norms = [gradient.double().flatten(1).norm(dim=1).mean().item() for gradient in gradients]
    return GradientFlow(describe_depth(network, unrolled, states), tuple(norms))


def with_step_size(
    network: nn.Module,
    step_size: float,
    example_input: Tensor,
    branches: Iterable[Branch] | None = None,
) -> nn.Module:
    """Copy a network and give the copy one fixed step size with the same weights.

    Args:
        network: attached, or plain; it stays as it is.
        step_size: h.
        example_input: what branches are found with.
        branches: the branches, instead of having them found; of an attached network its own.

    Returns:
        The copy, attached.

    Raises:
        StabilityError: there is no input, or the network can't be copied.
    """
    require_inputs(example_input)
    copy = copy_of(network)
    if hasattr(copy, "time_stepping"):
        if branches is None:
            branches = copy.time_stepping.branches  # type: ignore[union-attr, assignment]
        fold(copy)
        load_weights(copy, unstepped(network))
    if branches is None:
        branches = find_branches(copy, example_input, skip_unfoldable=True)
    return attach(copy, step_size, branches=branches)


def _check_labels(outputs: Tensor, labels: Tensor) -> None:
    """Make sure that there is one label for each row of outputs, and that it is a class."""
    if outputs.ndim != 2:
        raise StabilityError(
            f"the network's output has shape {tuple(outputs.shape)}: the cross-entropy of labels "
            "needs (images, classes)"
        )
    images, classes = outputs.shape
    if labels.shape != (images,) or labels.dtype != torch.int64:
        raise StabilityError(
            f"labels are {labels.dtype} of shape {tuple(labels.shape)}, but {images} images need "
            f"torch.int64 of shape ({images},)"
        )
    if labels.min() < 0 or labels.max() >= classes:
        raise StabilityError(
            f"labels go from {labels.min()} to {labels.max()}, but the network has {classes} "
            "classes, counted from 0"
        )
