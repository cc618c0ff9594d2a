"""Loops over arrays, compiled by numba on their first call and kept on disk for later processes.

Importing numba takes a while: what is decorated here belongs in modules that are imported only
where it is called.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import numba
from numba.core.caching import FunctionCache

Loops = TypeVar("Loops", bound=Callable[..., object])

REORDERED = {"reassoc", "nsz", "contract"}
"""Sums in any order, so that they are vectorised; what is not finite stays so."""


class _Cache(FunctionCache):  # type: ignore[misc] # numba's is untyped here
    """What was compiled earlier; where files are damaged or can't be written, it compiles again."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return what was compiled for these types, or None."""
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # whatever unpickling a damaged file may raise
            with suppress(OSError):
                self.flush()
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep what was compiled for these types, unless the disk is full."""
        with suppress(OSError):
            super().save_overload(sig, data)


def compiled(function: Loops) -> Loops:
    """Compile a function of arrays and numbers for the types that it is called with."""
    # Divisions by zero give infinities, as in numpy and torch, not exceptions.
    result: Any = numba.njit(error_model="numpy", fastmath=REORDERED)(function)
    if not numba.config.DISABLE_JIT:
        result._cache = _Cache(function)  # what cache=True does, with numba's own
    loops: Loops = result
    return loops
