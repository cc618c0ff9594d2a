"""Adaptive time stepping for residual networks.

import timm, timestepper

network = timm.create_model("resnet50")
timestepper.attach(network)            # step sizes, set by a controller that reads weights
...                                    # train it any way you like
timestepper.fold(network)              # an ordinary network again, same outputs
"""

from timestepper import errors
from timestepper.stepping import (
    Branch,
    Explanation,
    attach,
    evolution_time,
    explain,
    find_branches,
    fold,
    load_weights,
    step_sizes,
)

__version__ = "0.1.0"

__all__ = [
    "Branch",
    "Explanation",
    "attach",
    "errors",
    "evolution_time",
    "explain",
    "find_branches",
    "fold",
    "load_weights",
    "step_sizes",
]
