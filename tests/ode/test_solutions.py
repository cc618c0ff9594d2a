"""Both solvers against exact solutions, scipy and torchdiffeq."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.linalg import expm
from torchdiffeq import odeint

from timestepper.ode import solve_adaptive, solve_fixed

TIGHT = 1e-10

TURN = np.array([[0.0, -3.0], [3.0, 0.0]])

# f, y0, end, exact solution.
EXACT = {
    "linear": (lambda t, y: -4 * y, 1.0, 2.0, lambda t: np.exp(-4 * t)),
    "rotation": (
        *(lambda t, y: TURN @ y, [1.0, 0.5], 3.0),
        lambda t: expm(TURN * t) @ [1.0, 0.5],
    ),
    "logistic": (lambda t, y: y * (1 - y), 0.1, 6.0, lambda t: 1 / (1 + 9 * np.exp(-t))),
    "of time alone": (lambda t, y: np.cos(t), 0.0, 4.0, np.sin),
    "of time and y": (lambda t, y: y * np.cos(t), 2.0, 4.0, lambda t: 2 * np.exp(np.sin(t))),
    "matrix": (
        *(lambda t, y: TURN @ y, np.eye(2), 1.0),
        lambda t: expm(TURN * t),
    ),
}


@pytest.mark.parametrize("name", EXACT)
def test_adaptive_exact(name):
    f, y0, end, exact = EXACT[name]
    solution = solve_adaptive(f, y0, 0.0, end, tolerance=TIGHT)
    expected = np.stack([exact(t) for t in solution.times])
    assert solution.states.shape == (len(solution.times), *np.shape(y0))
    # None of the problems makes the steps' errors grow much, so that at most they add up.
    bound = TIGHT * len(solution.step_sizes)
    np.testing.assert_allclose(solution.states, expected, rtol=0, atol=bound)
    assert solution.times[-1] == end


@pytest.mark.parametrize("name", EXACT)
def test_euler_exact(name):
    """Half the step has half the error, so that with ever smaller steps none is left."""
    f, y0, end, exact = EXACT[name]
    coarse, fine = (
        np.abs(solve_fixed(f, y0, 0.0, end, step_size=end / n).states[-1] - exact(end)).max()
        for n in (2000, 4000)
    )
    assert coarse / fine == pytest.approx(2, rel=0.02)


@pytest.mark.parametrize("tolerance", [1e-4, 1e-6, 1e-8, 1e-10])
def test_the_error_follows_the_tolerance(tolerance):
    f, y0, end, exact = EXACT["of time and y"]
    solution = solve_adaptive(f, y0, 0.0, end, tolerance=tolerance)
    error = np.abs(solution.states - exact(solution.times)).max()
    assert tolerance / 100 < error < 30 * tolerance


def lotka_volterra(t, y):
    return np.array([1.5 * y[0] - y[0] * y[1], y[0] * y[1] - 3 * y[1]])


def van_der_pol(t, y):
    return np.array([y[1], 5 * (1 - y[0] ** 2) * y[1] - y[0]])


def robertson(t, y):
    """Stiff: rates from 0.04 to 3e7."""
    slow, fast, fastest = 0.04 * y[0], 1e4 * y[1] * y[2], 3e7 * y[1] ** 2
    return np.array([fast - slow, slow - fast - fastest, fastest])


STANDARD = {
    "Lotka-Volterra": (lotka_volterra, [10.0, 5.0], 4.0, "RK45"),
    "van der Pol": (van_der_pol, [2.0, 0.0], 10.0, "Radau"),
    "Robertson": (robertson, [1.0, 0.0, 0.0], 0.3, "Radau"),
    "Robertson, BDF": (robertson, [1.0, 0.0, 0.0], 0.3, "BDF"),
}


@pytest.mark.parametrize("name", STANDARD)
def test_agrees_with_scipy(name):
    f, y0, end, method = STANDARD[name]
    ours = solve_adaptive(f, y0, 0.0, end, tolerance=TIGHT)
    theirs = solve_ivp(f, (0.0, end), y0, method=method, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(ours.states[-1], theirs.y[:, -1], rtol=1e-7, atol=1e-9)


def in_torch(f):
    return lambda t, y: torch.from_numpy(np.asarray(f(t.item(), y.numpy())))


@pytest.mark.parametrize("name", ["Lotka-Volterra", "van der Pol"])
def test_agrees_with_torchdiffeq(name):
    f, y0, end, _ = STANDARD[name]
    start = torch.tensor(y0, dtype=torch.float64)
    ends = torch.tensor([0.0, end], dtype=torch.float64)
    theirs = odeint(in_torch(f), start, ends, method="dopri5", rtol=1e-11, atol=1e-12)
    ours = solve_adaptive(f, y0, 0.0, end, tolerance=TIGHT)
    np.testing.assert_allclose(ours.states[-1], theirs[-1].numpy(), rtol=1e-7)


@pytest.mark.parametrize("name", STANDARD)
def test_euler_is_torchdiffeqs(name):
    f, y0, end, _ = STANDARD[name]
    ours = solve_fixed(f, y0, 0.0, end / 5, step_size=end / 3000)
    theirs = odeint(
        in_torch(f),
        torch.tensor(y0, dtype=torch.float64),
        torch.from_numpy(ours.times.copy()),
        method="euler",
    )
    np.testing.assert_allclose(ours.states, theirs.numpy(), rtol=1e-11)


# λ: real or complex, stable and not with h = 0.1.
@pytest.mark.parametrize("rate", [-4.0, -19.0, -21.0, 2.0, -3 + 2j, -1 + 8j, -19 - 1j])
def test_euler_amplifies_a_perturbation_as_equation_3(rate):
    h, steps, perturbation = 0.1, 40, 1e-3
    # As a real system: multiplication with λ of the complex plane.
    matrix = np.array([[np.real(rate), -np.imag(rate)], [np.imag(rate), np.real(rate)]])
    first, second = (
        solve_fixed(lambda t, y: matrix @ y, [y0, 0.0], 0.0, h * steps, step_size=h)
        for y0 in (1.0, 1.0 + perturbation)
    )
    apart = np.linalg.norm(second.states - first.states, axis=1)
    expected = perturbation * abs(1 + h * rate) ** np.arange(steps + 1)
    np.testing.assert_allclose(apart, expected, rtol=1e-8)
    assert (apart[-1] < perturbation) == (abs(1 + h * rate) < 1)


@pytest.mark.parametrize(
    ("end", "h", "steps"), [(3.0, 0.6, 5), (2.1, 0.3, 7), (0.7, 0.1, 7), (1.0, 1.0, 1)]
)
def test_steps_that_divide_the_interval(end, h, steps):
    solution = solve_fixed(lambda t, y: -y, 1.0, 0.0, end, step_size=h)
    assert len(solution.step_sizes) == solution.evaluations == steps
    np.testing.assert_allclose(solution.step_sizes, h, rtol=1e-14)
    np.testing.assert_allclose(solution.states[-1], (1 - h) ** steps, rtol=1e-13)
    assert solution.times[-1] == end


@pytest.mark.parametrize(("h", "steps"), [(0.3, 4), (0.7, 2), (5.0, 1)])
def test_a_last_step_that_is_shorter(h, steps):
    solution = solve_fixed(lambda t, y: -y, 1.0, -1.0, 0.0, step_size=h)
    assert len(solution.step_sizes) == steps
    last = 1 - (steps - 1) * h
    np.testing.assert_allclose(solution.step_sizes, [h] * (steps - 1) + [last])
    assert solution.times[-1] == 0
    assert solution.states[-1] == pytest.approx((1 - h) ** (steps - 1) * (1 - last))
    np.testing.assert_allclose(np.diff(solution.times), solution.step_sizes, atol=1e-15)


@pytest.mark.parametrize(
    ("solve", "numbers"),
    [
        (solve_fixed, {"step_size": 0.1}),
        (solve_adaptive, {"tolerance": 1e-6}),
        (solve_adaptive, {"tolerance": 1e-6, "first_step": 0.1, "safety": 0.8}),
    ],
)
def test_float32_numbers_are_taken_as_float64(solve, numbers):
    def f(t, y):
        return -4 * y + np.sin(t)

    coarse = {name: np.float32(number) for name, number in numbers.items()}
    found = solve(f, np.float32(1), np.float32(0.1), np.float32(3.3), **coarse)
    as_floats = {name: float(number) for name, number in coarse.items()}
    expected = solve(f, 1.0, float(np.float32(0.1)), float(np.float32(3.3)), **as_floats)
    for name in ("times", "states", "step_sizes"):
        one, other = getattr(found, name), getattr(expected, name)
        assert one.dtype == np.float64
        assert np.array_equal(one, other)
    assert found.attempts == expected.attempts


def test_a_solution_cannot_be_changed():
    solution = solve_adaptive(lambda t, y: -y, 1.0, 0.0, 1.0, tolerance=1e-3)
    for array in (solution.times, solution.states, solution.step_sizes):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 2.0
    with pytest.raises(AttributeError):
        solution.evaluations = 0


def test_f_may_reuse_and_change_arrays():
    """The slopes of all stages stay apart where f hands out one array, and y is f's to change."""
    out = np.empty(2)

    def careless(t, y):
        out[:] = TURN @ y
        y[:] = math.nan
        return out

    initial = np.array([1.0, 0.5])
    solve = (0.0, 3.0)
    for found, expected in (
        (
            solve_adaptive(careless, initial, *solve, tolerance=TIGHT),
            solve_adaptive(lambda t, y: TURN @ y, initial, *solve, tolerance=TIGHT),
        ),
        (
            solve_fixed(careless, initial, *solve, step_size=0.1),
            solve_fixed(lambda t, y: TURN @ y, initial, *solve, step_size=0.1),
        ),
    ):
        np.testing.assert_array_equal(found.states, expected.states)
    np.testing.assert_array_equal(initial, [1.0, 0.5])


def test_y0_may_be_changed_meanwhile():
    y0 = np.ones(2)

    def f(t, y):
        y0[:] = 7.0
        return -y

    assert solve_fixed(f, y0, 0.0, 1.0, step_size=0.5).states[:, 0].tolist() == [1, 0.5, 0.25]
