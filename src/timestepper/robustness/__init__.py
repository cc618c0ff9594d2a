"""Accuracy and loss of a network whose inputs are disturbed."""

from timestepper.robustness.noise import NoiseCurve, noise_curve

__all__ = ["NoiseCurve", "noise_curve"]
