"""Problems and settings that are refused, each in one clear line."""

import math
import warnings
from functools import partial

import pytest

from timestepper.errors import ConfigurationError, SolverError
from timestepper.ode import EULER, solve_adaptive, solve_fixed

SOLVERS = {
    "fixed": partial(solve_fixed, step_size=0.1),
    "adaptive": partial(solve_adaptive, tolerance=1e-6),
}


def decay(t, y):
    return -y


@pytest.fixture(params=SOLVERS)
def solve(request):
    return SOLVERS[request.param]


@pytest.fixture(autouse=True)
def _without_warnings():
    """What is refused needs no warning of numpy's besides."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize(
    ("start", "end", "message"),
    [
        (1.0, 0.0, "the end 0.0 is not after the start 1.0; to go back"),
        (1.0, 1.0, "the end 1.0 is not after the start 1.0"),
        (0.0, math.inf, "the end must be a finite time, not inf"),
        (math.nan, 1.0, "the start must be a finite time, not nan"),
        (-1e308, 1e308, r"the time from -1e\+308 to 1e\+308 is more than float64 holds"),
    ],
)
def test_times(solve, start, end, message):
    with pytest.raises(ConfigurationError, match=message):
        solve(decay, 1.0, start, end)


@pytest.mark.parametrize("y0", [math.nan, [1.0, math.inf], []])
def test_initial_values_that_are_not_finite(solve, y0):
    with pytest.raises(SolverError, match="y0 must be finite numbers, at least one"):
        solve(decay, y0, 0.0, 1.0)


@pytest.mark.parametrize("y0", ["one", 1j, None, [[1.0], [1.0, 2.0]], [True]])
def test_initial_values_that_are_no_numbers(solve, y0):
    with pytest.raises(SolverError, match="y0 must be a real number or an array of them"):
        solve(decay, y0, 0.0, 1.0)


@pytest.mark.parametrize(
    ("slope", "message"),
    [
        ([1.0, 2.0, 3.0], r"f returned shape \(3,\) at t = 0.0, but y has shape \(2,\); return"),
        (1.0, r"f returned shape \(\) at t = 0.0, but y has shape \(2,\)"),
        ([[1.0, 2.0]], r"f returned shape \(1, 2\)"),
        (None, "what f returns must be a real number or an array"),
        ([1j, 2.0], "what f returns must be a real number or an array"),
    ],
)
def test_slopes(solve, slope, message):
    with pytest.raises(SolverError, match=message):
        solve(lambda t, y: slope, [1.0, 2.0], 0.0, 1.0)


@pytest.mark.parametrize("value", [0.0, -0.1, math.nan, math.inf])
def test_numbers_that_must_be_positive(value):
    message = f"must be positive and finite, not {value}"
    with pytest.raises(ConfigurationError, match=f"step_size {message}"):
        solve_fixed(decay, 1.0, 0.0, 1.0, step_size=value)
    with pytest.raises(ConfigurationError, match=f"tolerance {message}"):
        solve_adaptive(decay, 1.0, 0.0, 1.0, tolerance=value)
    with pytest.raises(ConfigurationError, match=f"first_step {message}"):
        solve_adaptive(decay, 1.0, 0.0, 1.0, tolerance=1.0, first_step=value)


@pytest.mark.parametrize("safety", [0.0, 1.0, -1.0, math.nan])
def test_safety(safety):
    with pytest.raises(ConfigurationError, match="safety must be above 0 and below 1"):
        solve_adaptive(decay, 1.0, 0.0, 1.0, tolerance=1.0, safety=safety)


def test_steps_that_float64_cannot_take():
    with pytest.raises(ConfigurationError, match=r"step_size is 1e-20, too small .* at least 2"):
        solve_fixed(decay, 1.0, 0.0, 1.0, step_size=1e-20)
    with pytest.raises(ConfigurationError, match=r"first_step is 0.01, too small"):
        solve_adaptive(decay, 1.0, 1e15, 1e15 + 1, tolerance=1.0)


def test_a_method_without_an_estimate():
    with pytest.raises(ConfigurationError, match=r"no comparison .* use solve_fixed"):
        solve_adaptive(decay, 1.0, 0.0, 1.0, tolerance=1.0, tableau=EULER)


def test_euler_overflows():
    with pytest.raises(SolverError, match=r"y is not finite after the step at t = .* a smaller"):
        solve_fixed(lambda t, y: -1e6 * y, 1.0, 0.0, 100.0, step_size=1.0)
    with pytest.raises(SolverError, match=r"y is not finite after the step at t = 0.5;"):
        solve_fixed(lambda t, y: math.nan if t >= 0.5 else 1.0, 1.0, 0.0, 1.0, step_size=0.25)


def test_a_solution_that_has_no_bound():
    """1 / (1 - t) is nowhere after 1."""
    with pytest.raises(
        SolverError, match=r"step size became too small at t = (1|0.9999.*): y has no bound"
    ):
        solve_adaptive(lambda t, y: y**2, 1.0, 0.0, 2.0, tolerance=1e-6)


def test_slopes_that_are_not_finite():
    with pytest.raises(SolverError, match=r"became too small at t = 0.5: f or y is not finite"):
        solve_adaptive(lambda t, y: math.nan if t > 0.5 else 1.0, 1.0, 0.0, 1.0, tolerance=1e-6)


def test_a_tolerance_that_rounding_exceeds():
    with pytest.raises(SolverError, match=r"too small at t = .* tolerance is too small"):
        solve_adaptive(decay, 1.0, 0.0, 1.0, tolerance=1e-300)
