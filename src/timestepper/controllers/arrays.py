"""Controllers that go forward and backward on arrays, in compiled loops, for networks on the CPU.

Their matrices are so small that in torch a pass costs what calling its operations costs, and
autograd's bookkeeping; here it is one call.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from numpy.typing import NDArray
from torch import Tensor

from timestepper.controllers.base import Controller

Array = NDArray[Any]
"""float32 or float64, as the controller's parameters are."""


class ArrayController(Controller):
    """A controller that also has its forward and backward pass written out for numpy's arrays.

    :meth:`forward` remains the controller's definition, and what runs wherever tensors are not
    plain ones on the CPU. Subclasses that override it are run by it alone.
    """

    @abstractmethod
    def operands(self) -> tuple[Tensor, ...]:
        """Return the parameters, in the order in which the functions below take them."""

    @abstractmethod
    def composed(self, averaged: Tensor, *operands: Tensor) -> Tensor:
        """Compute what :meth:`forward` does, from these operands instead of the parameters.

        All in torch's operations, whose derivatives have derivatives.
        """

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
