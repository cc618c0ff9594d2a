"""A table of results, as it is shown and as it is kept."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.markup import escape
from rich.table import Table

MARKUP = re.compile(r"[\\|&*`\[]|<(?!\d)|(?<!\w)_|_(?!\w)")
"""What Markdown takes for markup in a cell or line; not the underscores within a word, nor <0.1."""

LEAST_P = 0.001
"""People are told of a smaller p only that it is."""

Cell = str | int | float
"""Text, a count, or a quantity; NaN where there is none."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    Attributes:
        key: its name in CSV, with its unit.
        heading: its name elsewhere; it may have several lines.
        text: it holds text, not numbers.
        signed: its numbers are differences.
        decimals: of its quantities; counts have none, and None stands for as many as it takes.
        plus_minus: people see it behind the column before, as in 1.23 ± 0.45.
        is_p: its numbers are p values.
    """

    key: str
    heading: str
    text: bool = False
    signed: bool = False
    decimals: int | None = 3
    plus_minus: bool = False
    is_p: bool = False

    def show(self, cell: Cell) -> str:
        """Format a cell for people."""
        if isinstance(cell, str):
            return cell
        if math.isnan(cell):
            return "—"
        if self.is_p and cell < LEAST_P:
            return f"<{LEAST_P:g}"
        sign = "+" if self.signed else ""
        if isinstance(cell, int):
            return f"{cell:{sign},}"
        return f"{cell:{sign}zg}" if self.decimals is None else f"{cell:{sign}z.{self.decimals}f}"

    def write(self, cell: Cell) -> Cell:
        """Format a cell for CSV: numbers in full, without the noise of their last binary digits.

        Returns:
            Text and counts as they are; quantities with nine decimals, small ones nine digits.
        """
        if not isinstance(cell, float):
            return cell
        if math.isnan(cell):
            return ""
        if self.signed or self.plus_minus:
            # Where values are equal, noise is all that their difference or spread consists of.
            cell = round(cell, 12)
        return round(cell, 9) if abs(cell) >= 1 else float(f"{cell:.9g}")


@dataclass(frozen=True, slots=True)
class ResultTable:
    """A table of results.

    Attributes:
        title: what it shows.
        columns: its columns; the first one names the group that a row belongs to.
        rows: a cell for each column.
        notes: what its numbers mean, a sentence or two of Markdown each.
    """

    title: str
    columns: Sequence[Column]
    rows: Sequence[tuple[Cell, ...]]
    notes: Sequence[str]

    def to_rich(self) -> Table:
        """Lay it out for a terminal of 80 columns or more."""
        table = Table(
            title=escape(self.title),
            title_justify="left",
            box=box.SIMPLE_HEAD,
            padding=0,
        )
        for column in self._shown_columns():
            table.add_column(column.heading, justify="left" if column.text else "right")
        group: Cell = ""
        for row in self.rows:
            label, *rest = self._show(row)
            if row[0] != group:
                table.add_section()
            # Names may look like rich's markup.
            table.add_row("" if row[0] == group else escape(label), *map(escape, rest))
            group = row[0]
        return table

    def _show(self, row: tuple[Cell, ...]) -> list[str]:
        shown: list[str] = []
        for column, cell in zip(self.columns, row, strict=True):
            if not column.plus_minus:
                shown.append(column.show(cell))
            elif isinstance(cell, str) or not math.isnan(cell):
                shown[-1] += f" ± {column.show(cell)}"
        return shown

    def _shown_columns(self) -> list[Column]:
        return [column for column in self.columns if not column.plus_minus]

    def to_csv(self, made_by: Sequence[str]) -> str:
        """Write it as CSV, numbers in full, below lines that begin with '#'.

        Args:
            made_by: what made it, see :func:`~timestepper.provenance.provenance`.
        """
        text = io.StringIO()
        text.writelines(f"# {line}\n" for line in (*made_by, *self.notes))
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(column.key for column in self.columns)
        for row in self.rows:
            cells = zip(self.columns, row, strict=True)
            writer.writerow(column.write(cell) for column, cell in cells)
        return text.getvalue()

    def to_markdown(self, made_by: Sequence[str], picture: str | None = None) -> str:
        """Write it as a Markdown page, with its notes and what made it.

        Args:
            made_by: see :meth:`to_csv`.
            picture: the name of a file to show above it.
        """

        def line(cells: Sequence[str]) -> str:
            return f"| {' | '.join(cells)} |"

        def literal(text: str) -> str:
            return MARKUP.sub(r"\\\g<0>", text)

        return "\n".join(
            [
                f"# {self.title}",
                "",
                *([f"![{self.title}]({picture})", ""] if picture else []),
                line([column.heading.replace("\n", " ") for column in self._shown_columns()]),
                line(["---" if column.text else "---:" for column in self._shown_columns()]),
                *(line([literal(cell) for cell in self._show(row)]) for row in self.rows),
                "",
                *(f"- {note}" for note in self.notes),
                "",
                "Made by",
                "",
                *(f"- {literal(fact)}" for fact in made_by),
                "",
            ]
        )
