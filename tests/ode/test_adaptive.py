"""The choice of steps (paper Eq. 5 and 6), recomputed from what is recorded."""

import math

import numpy as np
import pytest

from timestepper.ode import next_step_size, solve_adaptive


def fehlberg(f, t, y, h):
    """A step as Fehlberg writes it: the results of order 4 and 5."""
    k1 = h * f(t, y)
    k2 = h * f(t + h / 4, y + k1 / 4)
    k3 = h * f(t + 3 * h / 8, y + (3 * k1 + 9 * k2) / 32)
    k4 = h * f(t + 12 * h / 13, y + (1932 * k1 - 7200 * k2 + 7296 * k3) / 2197)
    k5 = h * f(t + h, y + 439 * k1 / 216 - 8 * k2 + 3680 * k3 / 513 - 845 * k4 / 4104)
    k6 = h * f(
        t + h / 2, y - 8 * k1 / 27 + 2 * k2 - 3544 * k3 / 2565 + 1859 * k4 / 4104 - 11 * k5 / 40
    )
    fourth = y + 25 * k1 / 216 + 1408 * k3 / 2565 + 2197 * k4 / 4104 - k5 / 5
    fifth = y + 16 * k1 / 135 + 6656 * k3 / 12825 + 28561 * k4 / 56430 - 9 * k5 / 50 + 2 * k6 / 55
    return fourth, fifth


def decay(t, y):
    return -4 * y


def van_der_pol(t, y):
    return np.array([y[1], 8 * (1 - y[0] ** 2) * y[1] - y[0]])


def pulse(t, y):
    return np.exp(-2 * (t - 5) ** 2)


# f, y0, end, tolerance, safety.
PROBLEMS = {
    "decay": (decay, 1.0, 3.0, 1e-3, 0.9),
    "decay, another k": (decay, 1.0, 3.0, 1e-6, 0.8),
    "van der Pol": (van_der_pol, np.array([2.0, 0.0]), 25.0, 1e-5, 0.9),
    "pulse": (pulse, 0.0, 10.0, 1e-6, 0.9),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_attempts_are_equations_5_and_6(name):
    f, y0, end, tolerance, k = PROBLEMS[name]
    solution = solve_adaptive(f, y0, 0.0, end, tolerance=tolerance, safety=k)
    attempts = solution.attempts
    assert solution.evaluations == 6 * len(attempts)
    t, y, step, accepted = 0.0, y0, end / 100, 0
    for attempt in attempts:
        assert attempt.time == pytest.approx(t, abs=1e-12)
        assert attempt.step_size == pytest.approx(min(step, end - t), rel=1e-6, abs=1e-12)
        # From here on with what is recorded, so that rounding does not add up.
        t, step = attempt.time, attempt.step_size
        fourth, fifth = fehlberg(f, t, y, step)
        assert attempt.error == pytest.approx(np.abs(fourth - fifth).max(), rel=1e-4, abs=1e-14)
        assert attempt.accepted == (attempt.error <= tolerance)
        if attempt.accepted:
            accepted += 1
            t += step
            np.testing.assert_allclose(solution.states[accepted], fourth, rtol=1e-9, atol=1e-14)
            assert solution.times[accepted] == pytest.approx(t)
            assert solution.step_sizes[accepted - 1] == step
            y = solution.states[accepted]
        with np.errstate(divide="ignore"):
            factor = k * (tolerance / np.float64(attempt.error)) ** (1 / 5)
        step *= np.clip(factor, 0.1, 5)
    assert accepted == len(solution.step_sizes) == len(solution.times) - 1
    assert attempts[-1].accepted
    assert solution.times[-1] == end


def test_rejected_steps_are_recorded():
    """A pulse that a step size grown on the quiet before it leaps into."""
    f, y0, end, tolerance, _ = PROBLEMS["pulse"]
    solution = solve_adaptive(f, y0, 0.0, end, tolerance=tolerance)
    rejected = [a for a in solution.attempts if not a.accepted]
    assert len(rejected) >= 3
    assert len(rejected) + len(solution.step_sizes) == len(solution.attempts)
    for attempt, following in zip(solution.attempts, solution.attempts[1:], strict=False):
        if not attempt.accepted:
            assert attempt.error > tolerance
            assert following.time == attempt.time
            assert following.step_size < attempt.step_size
    assert solution.states[-1] == pytest.approx(math.sqrt(math.pi / 2), abs=1e-5)


def test_a_first_step_that_is_too_large():
    solution = solve_adaptive(decay, 1.0, 0.0, 3.0, tolerance=1e-6, first_step=3.0)
    first, second = solution.attempts[:2]
    assert (first.step_size, first.accepted, second.time) == (3.0, False, 0.0)
    assert solution.states[-1] == pytest.approx(math.exp(-12), abs=1e-5)


def test_an_error_of_zero_takes_the_largest_factor():
    """A constant slope is solved exactly."""
    solution = solve_adaptive(lambda t, y: 2.0 * (y == y), 1.0, 0.0, 8.0, tolerance=1e-300)
    assert [a.error for a in solution.attempts] == [0.0] * 4
    assert solution.step_sizes == pytest.approx([0.08, 0.4, 2.0, 5.52])
    assert solution.states[-1] == pytest.approx(17.0)


def test_a_step_of_not_finite_values_is_rejected():
    """The first steps reach beyond 0, where the square root has no value."""
    f = lambda t, y: -np.sqrt(y) if y >= 0 else math.nan  # noqa: E731
    solution = solve_adaptive(f, 1.0, 0.0, 1.5, tolerance=1e-8, first_step=1.5)
    first, second = solution.attempts[:2]
    assert (first.error, first.accepted) == (math.inf, False)
    assert second.step_size == pytest.approx(0.15)
    assert solution.states[-1] == pytest.approx((1 - 0.75) ** 2, abs=1e-7)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (1e-4, 0.9),
        (1e-4 / 2**5, 1.8),
        (1e-4 * 3**5, 0.3),
        (0.0, 5.0),
        (1e-300, 5.0),
        (5e-324, 5.0),
        (1e9, 0.1),
        (math.inf, 0.1),
    ],
)
def test_next_step_size(error, expected):
    found = next_step_size(2.0, error, 1e-4, safety=0.9, order=4)
    assert found == pytest.approx(2 * expected)


def test_the_largest_error_of_a_vector_counts():
    """Beside an element of its own, a harmless one changes nothing."""
    alone = solve_adaptive(decay, 1.0, 0.0, 3.0, tolerance=1e-4)
    both = solve_adaptive(
        lambda t, y: np.array([-4 * y[0], 0.1]), [1.0, 0.0], 0.0, 3.0, tolerance=1e-4
    )
    assert [a.error for a in both.attempts] == pytest.approx([a.error for a in alone.attempts])


def test_no_remainder_is_left_that_is_too_small():
    """Steps of 0.1, ten times summed up, are 1 - 1.1e-16."""
    solution = solve_adaptive(
        lambda t, y: 0 * y, 1.0, 0.0, 1.0, tolerance=1.0, first_step=1 - 1.2e-16
    )
    assert solution.times.tolist() == [0.0, 1.0]


def test_the_end_is_met_exactly():
    """Where start + (end - start) is not the end, in float64."""
    start, end = -0.7, 0.1
    assert start + (end - start) != end
    solution = solve_adaptive(decay, 1.0, start, end, tolerance=1.0, first_step=end - start)
    assert solution.times.tolist() == [start, end]
