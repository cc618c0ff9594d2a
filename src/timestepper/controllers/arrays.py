"""Controllers that go forward and backward in numpy, for networks on the CPU.

Their arrays have a few dozen elements, so that a pass costs what calling its operations costs:
one of numpy's takes a third of the time of one of torch's, and autograd's share falls away.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from timestepper.controllers.base import Controller

Array = NDArray[Any]
"""float32 or float64, as the controller's parameters are."""
SMALL_PRODUCT = 2**18
"""Multiply-accumulates of a product of matrices up to which numpy's BLAS takes one thread."""


class ArrayController(Controller):
    """A controller that also has its forward and backward pass written out in numpy.

    :meth:`forward` remains the controller's definition, and what runs wherever tensors are not
    plain ones on the CPU. Subclasses that override it are run by it alone.
    """

    @abstractmethod
    def operands(self) -> tuple[Tensor, ...]:
        """Return the parameters, in the order in which the functions below take them."""

    @abstractmethod
    def forward_arrays(self, averaged: Array, *operands: Array) -> tuple[Array, Any]:
        """Compute the step sizes of a stage.

        Args:
            averaged: w̄, ``(depth, features)``; it stays as it is, like all operands.
            operands: the values of :meth:`operands`.

        Returns:
            Step sizes, ``(depth, channels)``, and what the backward pass needs of this one.
        """

    @abstractmethod
    def backward_arrays(
        self, grad_steps: Array, done: Any, averaged: Array, *operands: Array
    ) -> tuple[Array, ...]:
        """Compute the gradients of ``averaged`` and of each operand.

        Args:
            grad_steps: of the step sizes, ``(depth, channels)``.
            done: what :meth:`forward_arrays` returned beside them.
            averaged: as there.
            operands: as there.
        """


def product(left: Array, right: Array) -> Array:
    """Multiply two matrices.

    Large ones by torch: the threads that numpy's BLAS has of its own go on spinning for a while,
    and keep torch's from the cores.
    """
    if left.size * right.shape[1] <= SMALL_PRODUCT:
        return left @ right
    with torch.autocast("cpu", enabled=False):
        result: Array = torch.mm(torch.from_numpy(left), torch.from_numpy(right)).numpy()
    return result


def sigmoid_in_place(z: Array) -> Array:
    """Overwrite z by σ(z) = (1 + tanh(z / 2)) / 2, which overflows nowhere, and return it."""
    z *= 0.5
    np.tanh(z, out=z)
    z *= 0.5
    z += 0.5
    return z
