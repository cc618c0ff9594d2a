"""How fast a training is, and what time stepping adds to it."""

from timestepper.speed.alternating import Timings, alternate, keep_memory
from timestepper.speed.measurements import Speed, measure_speed

__all__ = ["Speed", "Timings", "alternate", "keep_memory", "measure_speed"]
