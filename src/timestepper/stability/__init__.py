"""Euler's stability condition, measured on networks (paper, section on stability; Eq. 3, 4, 7)."""

from timestepper.stability.measure import (
    Stability,
    StageStability,
    StepStability,
    measure_stability,
)
from timestepper.stability.unrolled import UnrolledNetwork, unroll

__all__ = [
    "Stability",
    "StageStability",
    "StepStability",
    "UnrolledNetwork",
    "measure_stability",
    "unroll",
]
