"""An initial value problem, checked."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from timestepper.errors import ConfigurationError, SolverError

Array = NDArray[np.float64]

RightHandSide = Callable[[float, Array], ArrayLike]
"""f of dy/dt = f(t, y): the time and y to the slope, of y's shape."""


class Problem:
    """dy/dt = f(t, y), y(start) = y0, up to an end; it counts how often f is evaluated.

    Args:
        f: the right-hand side.
        y0: the initial value, a number or an array of any shape.
        start: the time of ``y0``.
        end: a later time.

    Attributes:
        start: as a float.
        end: as a float.
        initial: y0 as float64.
        evaluations: of f, so far.

    Raises:
        SolverError: y0 is empty, not finite or not real.
        ConfigurationError: the times or the time between them are not finite, or the end is not
            after the start.
    """

    def __init__(self, f: RightHandSide, y0: ArrayLike, start: float, end: float) -> None:
        start, end = float(start), float(end)  # Numpy's float32 would round all times.
        for name, time in (("start", start), ("end", end)):
            if not math.isfinite(time):
                raise ConfigurationError(f"the {name} must be a finite time, not {time}")
        if end <= start:
            raise ConfigurationError(
                f"the end {end} is not after the start {start}; to go back in time, "
                "solve dy/ds = -f(-s, y) with s = -t"
            )
        if not math.isfinite(end - start):
            raise ConfigurationError(
                f"the time from {start} to {end} is more than float64 holds; measure it in a "
                "larger unit"
            )
        self.f, self.start, self.end = f, start, end
        self.initial = _to_float64(y0, "y0")
        if not (self.initial.size and np.isfinite(self.initial).all()):
            raise SolverError("y0 must be finite numbers, at least one of them")
        self.evaluations = 0

    @property
    def smallest_step(self) -> float:
        """Ten times the distance of float64 numbers near the times: less can't be told apart."""
        return 10 * float(np.spacing(max(abs(self.start), abs(self.end))))

    def require_step(self, name: str, step_size: float) -> float:
        """Return a step size as a float.

        Raises:
            ConfigurationError: it is not positive, not finite or too small.
        """
        step_size = require_positive(name, step_size)
        if step_size < self.smallest_step:
            raise ConfigurationError(
                f"{name} is {step_size}, too small for float64 between {self.start} and "
                f"{self.end}; it must be at least {self.smallest_step:.1e}"
            )
        return step_size

    def slope(self, time: float, state: Array) -> Array:
        """Evaluate f.

        Raises:
            SolverError: f returned no real numbers, or not y's shape.
        """
        self.evaluations += 1
        slope = _to_float64(self.f(time, state), "what f returns")
        if slope.shape != state.shape:
            raise SolverError(
                f"f returned shape {slope.shape} at t = {time}, but y has shape {state.shape}; "
                "return dy/dt in the shape of y0"
            )
        return slope


def require_positive(name: str, value: float) -> float:
    """Return a number as a float; raise ConfigurationError unless it is positive and finite."""
    value = float(value)
    if not (math.isfinite(value) and value > 0):
        raise ConfigurationError(f"{name} must be positive and finite, not {value}")
    return value


def _to_float64(value: ArrayLike, name: str) -> Array:
    """Copy a value, as an array that is the caller's may be changed meanwhile."""
    try:
        array = np.array(value)
    except ValueError:  # Lists of different lengths.
        array = np.array(None)
    if array.dtype.kind not in "fiu":
        raise SolverError(f"{name} must be a real number or an array of them")
    return array.astype(np.float64, copy=False)
