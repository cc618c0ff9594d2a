"""Names of networks and blocks in pictures."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import takewhile


def literal(name: str) -> str:
    """Keep matplotlib from reading mathematics into a name, or leaving it out of a legend."""
    return (" " if name.startswith("_") else "") + name.replace("$", r"\$")


def shared_prefix(names: Iterable[str]) -> str:
    """Find what dotted names begin with, all of them, up to a dot; their last parts stay apart."""
    levels = zip(*(name.split(".")[:-1] for name in names), strict=False)
    return "".join(f"{level[0]}." for level in takewhile(lambda one: len(set(one)) == 1, levels))
