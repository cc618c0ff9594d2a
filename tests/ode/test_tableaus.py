"""The methods' order, by the algebraic conditions and by measuring."""

import dataclasses

import numpy as np
import pytest

from timestepper.ode import EULER, FEHLBERG, solve_fixed

# ŷ of the Fehlberg pair as a method of its own.
FIFTH = dataclasses.replace(FEHLBERG, weights=FEHLBERG.comparison, order=5, comparison=())
METHODS = {"Euler": EULER, "Fehlberg's y": FEHLBERG, "Fehlberg's ŷ": FIFTH}


def conditions(tableau):
    """One for each rooted tree: its order, the sum over stages, 1 / (the tree's density)."""
    stages = len(tableau.nodes)
    a = np.array([[*row, *[0] * (stages - len(row))] for row in tableau.stages])
    b, c = np.array(tableau.weights), np.array(tableau.nodes)
    return [
        (1, b.sum(), 1),
        (2, b @ c, 1 / 2),
        (3, b @ c**2, 1 / 3),
        (3, b @ a @ c, 1 / 6),
        (4, b @ c**3, 1 / 4),
        (4, b @ (c * (a @ c)), 1 / 8),
        (4, b @ a @ c**2, 1 / 12),
        (4, b @ a @ a @ c, 1 / 24),
        (5, b @ c**4, 1 / 5),
        (5, b @ (c**2 * (a @ c)), 1 / 10),
        (5, b @ (a @ c) ** 2, 1 / 20),
        (5, b @ (c * (a @ c**2)), 1 / 15),
        (5, b @ (c * (a @ a @ c)), 1 / 30),
        (5, b @ a @ c**3, 1 / 20),
        (5, b @ a @ (c * (a @ c)), 1 / 40),
        (5, b @ a @ a @ c**2, 1 / 60),
        (5, b @ a @ a @ a @ c, 1 / 120),
    ]


@pytest.mark.parametrize("tableau", METHODS.values(), ids=METHODS)
def test_order_conditions(tableau):
    for order, found, expected in conditions(tableau):
        if order <= tableau.order:
            assert found == pytest.approx(expected, abs=1e-15), order
    # And no more than its order.
    beyond = [c for c in conditions(tableau) if c[0] == tableau.order + 1]
    assert not beyond or any(abs(found - expected) > 1e-4 for _, found, expected in beyond)


@pytest.mark.parametrize("tableau", METHODS.values(), ids=METHODS)
def test_stages_lie_at_their_nodes(tableau):
    assert [sum(row) for row in tableau.stages] == pytest.approx(tableau.nodes, abs=1e-14)
    assert [len(row) for row in tableau.stages] == list(range(len(tableau.nodes)))


def logistic(t, y):
    return y * (1 - y)


def coupled(t, y):
    """Non-linear, coupled and dependent on time; (sin t, cos t) is a solution, as |y| = 1."""
    beside = (y @ y - 1) / 2
    return np.array([y[1] - beside * y[0], -y[0] - beside * np.cos(t) * y[1]])


PROBLEMS = {
    "logistic": (logistic, 0.1, 2.0, 1 / (1 + 9 * np.exp(-2.0))),
    "coupled": (coupled, [0.0, 1.0], 3.0, [np.sin(3.0), np.cos(3.0)]),
}


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("tableau", METHODS.values(), ids=METHODS)
def test_measured_order(tableau, problem):
    """The slope of log error over log step size."""
    f, y0, end, expected = PROBLEMS[problem]
    counts = np.array([160, 240, 320, 480]) if tableau is EULER else np.array([24, 32, 48, 64])
    errors = [
        np.abs(
            solve_fixed(f, y0, 0.0, end, step_size=end / n, tableau=tableau).states[-1] - expected
        )
        for n in counts
    ]
    slope = np.polyfit(np.log(end / counts), np.log([np.max(error) for error in errors]), 1)[0]
    assert slope == pytest.approx(tableau.order, abs=0.1)
