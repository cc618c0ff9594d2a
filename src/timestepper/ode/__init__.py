"""Initial value problems dy/dt = f(t, y), y(start) = y0, by explicit Runge-Kutta methods.

A method is its Butcher tableau. With a fixed step, forward Euler (the residual network of paper
Eq. 1); with adaptive steps, Runge-Kutta-Fehlberg 4(5) (paper Eq. 5 and 6).
"""

from timestepper.ode.adaptive import next_step_size, solve_adaptive
from timestepper.ode.fixed import solve_fixed
from timestepper.ode.problem import Array, RightHandSide
from timestepper.ode.solution import Attempt, Solution
from timestepper.ode.tableaus import EULER, FEHLBERG, Tableau

__all__ = [
    "EULER",
    "FEHLBERG",
    "Array",
    "Attempt",
    "RightHandSide",
    "Solution",
    "Tableau",
    "next_step_size",
    "solve_adaptive",
    "solve_fixed",
]
