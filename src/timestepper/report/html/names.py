"""How runs, numbers and times are written on the page."""

from __future__ import annotations

import math

from timestepper.training.configuration import Configuration

CONTROLLERS = {"none": "none: the plain network"}


def controller(configuration: Configuration) -> str:
    """Name what sets a training's step sizes."""
    chosen = configuration.stepping.controller
    if isinstance(chosen, float):
        return f"fixed at {chosen!r}".removesuffix(".0")
    return CONTROLLERS.get(chosen, chosen)


def percent(share: float, digits: int = 2) -> str:
    """Write a share of 1 in percent."""
    return f"{100 * share:.{digits}f} %"


def duration(seconds: float) -> str:
    """Write how long something took, to two units."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def count(number: float) -> str:
    """Write a large number as people do: 272,474 or 40.81 M."""
    if number < 1e6:
        return f"{number:,.0f}"
    for unit, size in (("G", 1e9), ("M", 1e6)):
        if number >= size:
            return f"{number / size:.2f} {unit}"
    raise AssertionError(number)


def power_of_ten(logarithm: float | None) -> str:
    """Write 10^x, which may pass any float; a dash where there is none."""
    if logarithm is None or math.isnan(logarithm):
        return "—"
    if math.isinf(logarithm):
        return "∞" if logarithm > 0 else "0"
    if -3 < logarithm < 4:
        return f"{10**logarithm:.3g}"
    exponent = math.floor(logarithm)
    return f"{10 ** (logarithm - exponent):.2f}·10^{exponent}"
