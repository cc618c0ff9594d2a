"""A figure, with its numbers."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from timestepper.report.result_table import ResultTable


@dataclass(frozen=True, slots=True)
class ResultFigure:
    """A figure of results.

    Attributes:
        figure: what is drawn.
        table: its numbers.
    """

    figure: Figure
    table: ResultTable

    def to_png(self, made_by: Sequence[str]) -> bytes:
        """Draw it as PNG, what made it in the file's description."""
        content = io.BytesIO()
        description = {"Description": "\n".join(made_by)}
        self.figure.savefig(content, format="png", dpi=150, metadata=description)
        return content.getvalue()
