"""Figures as files."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure

from timestepper.files import write_atomically

DOTS = 150
"""An inch has so many."""


def drawn(figure: Figure, kind: str, metadata: Mapping[str, str] | None = None) -> bytes:
    """Draw a figure.

    Args:
        figure: the figure.
        kind: the format, such as ``png``.
        metadata: what the file says of itself.
    """
    content = io.BytesIO()
    figure.savefig(content, format=kind, dpi=DOTS, metadata=metadata)
    return content.getvalue()


def save(figure: Figure, path: Path) -> None:
    """Write a figure, whole or not at all.

    Args:
        figure: the figure.
        path: the picture, of the format that its suffix names.

    Raises:
        OSError: it can't be written; what was there before still is.
    """
    write_atomically(path, drawn(figure, path.suffix.removeprefix(".")))
