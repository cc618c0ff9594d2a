"""How much perturbations really grow from state to state, against the bound of Proposition 1."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from timestepper.stability.operators import Jacobian
from timestepper.stability.unrolled import UnrolledNetwork, Values

LOCAL_TOLERANCE = 1e-3
"""Relative tolerance of what is measured at single inputs, which differ far more than this."""


class Amplification:
    """Perturbs one state of a network and watches how the perturbation grows in those after it.

    Args:
        unrolled: the network.
        values: results of its operations on the input, see :meth:`UnrolledNetwork.evaluate`.
        start: what made the state that is perturbed.
        states: what made the states that are watched, in order of depth.
        epsilon: norm of the perturbation as a fraction of the perturbed state's norm.
    """

    def __init__(
        self,
        unrolled: UnrolledNetwork,
        values: Values,
        start: int,
        states: list[int],
        epsilon: float,
    ) -> None:
        self.unrolled = unrolled
        self.values = values
        self.start = start
        self.states = states
        # A state of zeros is perturbed too.
        self.size = epsilon * (values[start].double().norm().item() or 1.0)

    def random(self, count: int, generator: torch.Generator) -> NDArray[np.float64]:
        """Perturb in random directions, uniform on the sphere.

        Args:
            count: how many.
            generator: on the CPU.

        Returns:
            ‖y'_n − y_n‖ / ε of each direction at each state, float64 ``(count, states)``.
        """
        start = self.values[self.start]
        directions = [
            torch.randn(start.shape, generator=generator, device="cpu") for _ in range(count)
        ]
        return np.stack([self.along(direction.to(start)) for direction in directions])

    def worst(self) -> NDArray[np.float64]:
        """Perturb in the direction in which the last state's change is largest.

        It is that of the network linearised at the input: the Jacobian's leading right singular
        vector, in the better of both senses.

        Returns:
            ‖y'_n − y_n‖ / ε at each state, float64 ``(states,)``.
        """
        start = self.values[self.start]
        function = self.unrolled.function(self.values, self.start, self.states[-1])
        _, vector = Jacobian(function, start, LOCAL_TOLERANCE).leading_direction()
        direction = torch.from_numpy(np.ascontiguousarray(vector)).to(start).view_as(start)
        return max(self.along(direction), self.along(-direction), key=lambda growth: growth[-1])

    @torch.no_grad()
    def along(self, direction: Tensor) -> NDArray[np.float64]:
        """Perturb in one direction.

        Args:
            direction: of the perturbed state's shape, of any norm but zero.

        Returns:
            ‖y'_n − y_n‖ / ε at each state, float64 ``(states,)``; infinite where the perturbed
            pass overflows.
        """
        start = self.values[self.start]
        perturbed = start + direction * (self.size / direction.double().norm().item())
        # What remains of the perturbation after rounding.
        size = (perturbed.double() - start.double()).norm().item()
        known = self.values | {self.start: perturbed}
        found = self.unrolled.run(known, self.start, self.states)
        growth = np.array(
            [
                (found[state].double() - self.values[state].double()).norm().item() / size
                for state in self.states
            ]
        )
        # After an overflow ∞ − ∞ is NaN.
        return np.where(np.isfinite(growth), growth, np.inf)
