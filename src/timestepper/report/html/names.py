"""How runs, numbers and times are written on the page."""

from __future__ import annotations

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
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def count(number: float) -> str:
    """Write a large number as people do: 272,474 or 40.81 M."""
    if round(number) < 1e6:
        return f"{number:,.0f}"
    if round(number / 1e6, 2) < 1000:
        return f"{number / 1e6:.2f} M"
    return f"{number / 1e9:.2f} G"
