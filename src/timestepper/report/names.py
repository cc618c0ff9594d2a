"""How names and numbers are written in pictures, in tables and on pages."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import takewhile


def literal(name: str) -> str:
    """Keep matplotlib from reading mathematics into a name, or leaving it out of a legend."""
    return (" " if name.startswith("_") else "") + name.replace("$", r"\$")


def shared_prefix(names: Iterable[str]) -> str:
    """Find what dotted names begin with, all of them, up to a dot; their last parts stay apart."""
    levels = zip(*(name.split(".")[:-1] for name in names), strict=False)
    return "".join(f"{level[0]}." for level in takewhile(lambda one: len(set(one)) == 1, levels))


def power_of_ten(logarithm: float | None) -> str:
    """Write 10^x with three digits, which may pass any float; a dash where there is none."""
    if logarithm is None or math.isnan(logarithm):
        return "—"
    if math.isinf(logarithm):
        return "∞" if logarithm > 0 else "0"
    exponent = math.floor(logarithm)
    mantissa = f"{10 ** (logarithm - exponent):.2f}"
    if mantissa == "10.00":  # Rounding may lead to the next power.
        mantissa, exponent = "1.00", exponent + 1
    if -3 <= exponent < 3:
        return f"{float(mantissa) * 10**exponent:.3g}"
    return f"{mantissa}·10^{exponent}"
