"""Timing things beside each other, so that what the machine does meanwhile hits all of them."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

WARM_UP = 2
"""Calls before the first timed one."""


@dataclass(frozen=True)
class Timings:
    """Seconds that each side took.

    Attributes:
        seconds: by side, a value for each round; all sides have as many.
    """

    seconds: dict[str, list[float]]

    def median(self, side: str) -> float:
        """Return the median time of a side, in seconds."""
        return statistics.median(self.seconds[side])

    def ratio(self, side: str, to: str) -> float:
        """Return the median over rounds of the ratio of two sides' times within a round."""
        pairs = zip(self.seconds[side], self.seconds[to], strict=True)
        return statistics.median(one / other for one, other in pairs)

    def and_then(self, later: Timings) -> Timings:
        """Append later rounds of the same sides."""
        return Timings({s: [*there, *later.seconds[s]] for s, there in self.seconds.items()})


def alternate(sides: Mapping[str, Callable[[], object]], rounds: int) -> Timings:
    """Time functions in turns.

    In a fixed or alternating order some side would more often run right behind itself: each
    round has an order of its own.

    Args:
        sides: what is timed, by name; each is called :data:`WARM_UP` times before.
        rounds: how often each is timed.
    """
    orders = random.Random(0)
    for side in sides.values():
        for _ in range(WARM_UP):
            side()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name in orders.sample(list(sides), len(sides)):
            start = time.perf_counter()
            sides[name]()
            seconds[name].append(time.perf_counter() - start)
    return Timings(seconds)
