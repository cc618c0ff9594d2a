"""What a network costs: its operations, how fast its training is, what time stepping adds."""

from timestepper.speed.alternating import Timings, alternate
from timestepper.speed.measurements import Speed, measure_speed

__all__ = ["Speed", "Timings", "alternate", "measure_speed"]
