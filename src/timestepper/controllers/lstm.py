"""TSC_LSTM, the paper's controller."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from timestepper.controllers.arrays import Array, ArrayController
from timestepper.controllers.lstm_steps import LSTMSteps, composed
from timestepper.controllers.standardise import (
    standardised,
    standardised_arrays,
    standardised_backward,
)
from timestepper.controllers.transforms import in_a_transform


class LSTMController(ArrayController):
    """One LSTM along the blocks of a stage, all parameters shared by them (paper Eq. 10 to 12).

    ``x_d = ReLU(W_in w̄_d + b_in)``, one LSTM step from ``(h, c)`` of the block before (zero at the
    first), ``Δt_d = σ(W_out h_d + b_out)``. ``b_out`` starts at zero, so that every step size
    starts near 0.5. The LSTM has one bias for each gate, as Eq. 11 has it. Its layers hold
    parameters; their own forward is not called.

    Args:
        depth: number of blocks L_b in the stage.
        features: length of w̄_d.
        channels: C_b.
        hidden: C_b / r.
        standardise: bring each w̄_d to zero mean and unit variance and start from He-initialised
            W_in with a zero b_in. Averages of freshly initialised weights are so small that
            the literal controller starts by seeing little more than its own biases.
    """

    def __init__(
        self, depth: int, features: int, channels: int, hidden: int, *, standardise: bool = False
    ) -> None:
        super().__init__(depth, features, channels, hidden)
        self.standardise = standardise
        self.project_in = nn.Linear(features, hidden)
        # Rows in the order i, f, o, g; columns [x, h]: the four matrices of Eq. 11 in one.
        self.gates = nn.Linear(2 * hidden, 4 * hidden)
        self.project_out = nn.Linear(hidden, channels)
        bound = 1.0 / math.sqrt(hidden)
        nn.init.uniform_(self.gates.weight, -bound, bound)
        nn.init.uniform_(self.gates.bias, -bound, bound)
        nn.init.zeros_(self.project_out.bias)
        if standardise:
            nn.init.kaiming_normal_(self.project_in.weight, nonlinearity="relu")
            nn.init.zeros_(self.project_in.bias)
            # All else in the states of both kinds is alike, so that one would load as the other.
            self.register_buffer("standardised", torch.ones(()))

    def forward(self, averaged: Tensor) -> Tensor:
        """Compute step sizes in (0, 1); see :meth:`Controller.forward`."""
        if in_a_transform():
            return self.composed(averaged, *self.operands())
        if self.standardise:
            averaged = standardised(averaged)
        steps: Tensor = LSTMSteps.apply(averaged, *self.operands())
        return steps

    def operands(self) -> tuple[Tensor, ...]:
        """Return W_in, b_in, the gates' weights and biases, W_out and b_out."""
        layers = self.project_in, self.gates, self.project_out
        return tuple(p for layer in layers for p in (layer.weight, layer.bias))

    def composed(self, averaged: Tensor, *operands: Tensor) -> Tensor:
        """See :meth:`ArrayController.composed`."""
        if self.standardise:
            averaged = standardised(averaged)
        return composed(averaged, *operands)

    def forward_arrays(self, averaged: Array, *operands: Array) -> tuple[Array, Any]:
        """See :meth:`ArrayController.forward_arrays`."""
        from timestepper.controllers import loops

        seen, inverse = standardised_arrays(averaged) if self.standardise else (averaged, None)
        steps, x, gates, cells, h = loops.lstm_forward(seen, *operands)
        return steps, (seen, inverse, steps, x, gates, cells, h)

    def backward_arrays(
        self, grad_steps: Array, done: Any, averaged: Array, *operands: Array
    ) -> tuple[Array, ...]:
        """See :meth:`ArrayController.backward_arrays`."""
        from timestepper.controllers import loops

        seen, inverse, steps, x, gates, cells, h = done
        weight_in, _, weight_gates, _, weight_out, _ = operands
        grad, *grads = loops.lstm_backward(
            grad_steps, steps, x, gates, cells, h, seen, weight_in, weight_gates, weight_out
        )
        if inverse is not None:
            grad = standardised_backward(grad, seen, inverse)
        return grad, *grads
