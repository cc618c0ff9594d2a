"""What a page is made of: sections, and the parts that a section has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from plotly.graph_objects import Figure

MISSING = "not measured"
"""What the page says where a number would be."""


@dataclass(frozen=True)
class Text:
    """A paragraph.

    Attributes:
        text: a few sentences.
    """

    kind: ClassVar = "text"
    text: str


@dataclass(frozen=True)
class Missing:
    """A place where something would be.

    Attributes:
        why: why it isn't there, a sentence without its full stop.
        command: what measures it; empty where nothing can.
    """

    kind: ClassVar = "missing"
    why: str
    command: str = ""


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        headings: of its columns.
        rows: a cell for each column, as it is shown.
        text_columns: how many columns at its left hold text; the others hold numbers.
        caption: what its numbers mean; may be empty.
    """

    kind: ClassVar = "table"
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    text_columns: int = 1
    caption: str = ""


@dataclass(frozen=True)
class Facts:
    """Names with what they stand for.

    Attributes:
        facts: pairs of both.
    """

    kind: ClassVar = "facts"
    facts: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Plot:
    """An interactive plot.

    Attributes:
        figure: what is drawn; without colours of its own for what is not data.
        height: of all but the legend, in CSS pixels.
        title: what stands above it.
        caption: what stands below it.
    """

    kind: ClassVar = "plot"
    figure: Figure
    height: int
    title: str
    caption: str = ""

    @property
    def json(self) -> str:
        """The figure, in JSON that can stand inside of HTML."""
        text = self.figure.to_json(validate=False)
        assert isinstance(text, str)
        return text.replace("<", "\\u003c")


@dataclass(frozen=True)
class Plots:
    """Plots beside each other where there is room.

    Attributes:
        plots: the plots.
    """

    kind: ClassVar = "plots"
    plots: Sequence[Plot]


@dataclass(frozen=True)
class Picture:
    """An image that was classified.

    Attributes:
        source: the image as a data URI.
        true: name of its class.
        predicted: name of the most likely class.
        probability: that the network gives it, 0 to 1.
    """

    source: str
    true: str
    predicted: str
    probability: float


@dataclass(frozen=True)
class Pictures:
    """A row of images that were classified.

    Attributes:
        title: what they have in common.
        pictures: the images.
    """

    kind: ClassVar = "pictures"
    title: str
    pictures: Sequence[Picture]


@dataclass(frozen=True)
class Code:
    """Text of a file or a terminal.

    Attributes:
        text: as it stands there.
        folded_under: what opens it, where it is long; empty where it is always seen.
    """

    kind: ClassVar = "code"
    text: str
    folded_under: str = ""


Part = Text | Missing | Table | Facts | Plot | Plots | Pictures | Code


@dataclass(frozen=True)
class Section:
    """A section of the page.

    Attributes:
        key: its address within the page.
        title: its heading.
        parts: what it has, in this order.
    """

    key: str
    title: str
    parts: Sequence[Part]
