"""Timings, on a clock that goes as the functions say."""

import pytest

from timestepper.speed import Timings, alternate
from timestepper.speed.alternating import WARM_UP


def test_sides_take_turns_and_get_their_own_time(monkeypatch):
    now, calls = [0.0], []
    monkeypatch.setattr("time.perf_counter", lambda: now[0])

    def side(name, seconds):
        def run():
            calls.append(name)
            now[0] += seconds * len(calls)

        return run

    timings = alternate({"a": side("a", 1.0), "b": side("b", 2.0)}, 20)
    assert calls[: 2 * WARM_UP] == ["a"] * WARM_UP + ["b"] * WARM_UP
    rounds = [tuple(calls[at : at + 2]) for at in range(2 * WARM_UP, len(calls), 2)]
    assert len(rounds) == 20
    assert set(rounds) == {("a", "b"), ("b", "a")}
    for number, order in enumerate(rounds):
        for name, seconds in (("a", 1.0), ("b", 2.0)):
            place = 2 * WARM_UP + 2 * number + order.index(name) + 1
            assert timings.seconds[name][number] == pytest.approx(seconds * place)


def test_ratios_are_within_rounds():
    timings = Timings({"new": [1.0, 20.0, 3.0], "old": [2.0, 10.0, 30.0]})
    assert timings.median("new") == 3.0
    assert timings.ratio("new", "old") == 0.5
    assert timings.ratio("old", "new") == 2.0
    longer = timings.and_then(Timings({"new": [4.0, 4.0], "old": [1.0, 1.0]}))
    assert longer.seconds["new"] == [1.0, 20.0, 3.0, 4.0, 4.0]
    assert longer.ratio("new", "old") == 2.0
