"""Accuracy and loss of a network whose inputs are disturbed, under a named threat model."""

from timestepper.robustness.attacks import FGSM, PGD, Attack, AutoAttack
from timestepper.robustness.corruptions import CommonCorruptions
from timestepper.robustness.noise import GaussianNoise, NoiseCurve, noise_curve
from timestepper.robustness.threat import Outcome, ThreatModel

__all__ = [
    "FGSM",
    "PGD",
    "Attack",
    "AutoAttack",
    "CommonCorruptions",
    "GaussianNoise",
    "NoiseCurve",
    "Outcome",
    "ThreatModel",
    "noise_curve",
]
