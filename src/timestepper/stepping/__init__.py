"""Branches of a network, and the step sizes attached to them."""

from timestepper.stepping.attach import attach, evolution_time, fold, load_weights, step_sizes
from timestepper.stepping.branches import Branch
from timestepper.stepping.explain import Explanation, explain
from timestepper.stepping.find import find_branches

__all__ = [
    "Branch",
    "Explanation",
    "attach",
    "evolution_time",
    "explain",
    "find_branches",
    "fold",
    "load_weights",
    "step_sizes",
]
