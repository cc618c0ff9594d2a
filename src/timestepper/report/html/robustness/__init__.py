"""The sections about disturbed images, of one run or of several, a file each."""

from timestepper.report.html.robustness.attacks import attacks
from timestepper.report.html.robustness.corruptions import corruptions
from timestepper.report.html.robustness.noise import noise

__all__ = ["attacks", "corruptions", "noise"]
