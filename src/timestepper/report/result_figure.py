"""A figure, with its numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from timestepper.report.pictures import drawn
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
        return drawn(self.figure, "png", {"Description": "\n".join(made_by)})
