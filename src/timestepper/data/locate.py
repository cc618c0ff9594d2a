"""Where the files of data sets are looked for."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from timestepper.data import cache
from timestepper.errors import DataError
from timestepper.files import expanded

VARIABLE = "TIMESTEPPER_DATA"
SYSTEM_FOLDER = Path("/usr/share/datasets")


def roots(data_dir: Path | None) -> list[Path]:
    """List the folders that may hold data sets, the first to be searched first.

    Args:
        data_dir: the folder that the user named, if any.

    Returns:
        That folder, ``$TIMESTEPPER_DATA``, ``./data``, ``data`` in the cache folder
        (see :func:`timestepper.data.cache.default_folder`) and ``/usr/share/datasets``.
    """
    return [*named_roots(data_dir), Path("data"), cache.default_folder() / "data", SYSTEM_FOLDER]


def named_roots(data_dir: Path | None) -> list[Path]:
    """List the folders that the user named: ``data_dir``, and ``$TIMESTEPPER_DATA``."""
    variable = os.environ.get(VARIABLE)
    return [folder for folder in (data_dir, expanded(variable) if variable else None) if folder]


def locate(
    name: str,
    searched: Sequence[Path],
    places: Sequence[str],
    holds: Callable[[Path], bool],
    remedy: str,
) -> Path:
    """Find the folder of a data set.

    Args:
        name: name of the data set.
        searched: folders to search, in this order.
        places: where in each of them the data set may be.
        holds: whether a folder holds the data set.
        remedy: how to get the data set, the end of the error message.

    Returns:
        The first folder that holds it.

    Raises:
        DataError: if none does.
    """
    for root in searched:
        for place in places:
            if holds(root / place):
                return root / place
    where = f": neither --data.data_dir nor {VARIABLE} is set"
    if searched:
        where = f" in {', '.join(map(str, searched))}"
    raise DataError(f"data set '{name}' was not found{where}; {remedy}")


def download_folder(data_dir: Path | None) -> Path:
    """Say where downloads go: the folder that the user named, else into the cache folder."""
    return next(iter(named_roots(data_dir)), cache.default_folder() / "data")
