"""Loops over arrays, compiled by numba on their first call and kept on disk for later processes.

Importing numba takes a while: what is decorated here belongs in modules that are imported only
where it is called.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numba

Loops = TypeVar("Loops", bound=Callable[..., object])

REORDERED = {"reassoc", "nsz", "contract"}
"""Sums in any order, so that they are vectorised; what is not finite stays so."""


def compiled(function: Loops) -> Loops:
    """Compile a function of arrays and numbers for the types that it is called with."""
    # Divisions by zero give infinities, as in numpy and torch, not exceptions.
    compile_loops = numba.njit(cache=True, error_model="numpy", fastmath=REORDERED)
    result: Loops = compile_loops(function)
    return result
