"""Euler's stability condition, measured on networks (paper Eq. 3, 4, 7 and 8)."""

from timestepper.stability.gradients import GradientFlow, gradient_flow
from timestepper.stability.measure import (
    Stability,
    StageStability,
    StepStability,
    log10_bound,
    measure_stability,
)
from timestepper.stability.regulariser import StabilityPenalty
from timestepper.stability.trajectories import Trajectory, trajectory
from timestepper.stability.unrolled import UnrolledNetwork, unroll

__all__ = [
    "GradientFlow",
    "Stability",
    "StabilityPenalty",
    "StageStability",
    "StepStability",
    "Trajectory",
    "UnrolledNetwork",
    "gradient_flow",
    "log10_bound",
    "measure_stability",
    "trajectory",
    "unroll",
]
