"""From sections to HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from timestepper.report.html.parts import Section

MARK = '<meta name="generator" content="timestepper report">'
"""What tells a report from other files."""
MARK_WITHIN = 300
"""Characters from the beginning."""


@dataclass(frozen=True)
class Page:
    """A page.

    Attributes:
        title: what it is about.
        sections: what it has.
        command: what makes it.
        version: of the package.
        refresh: seconds after which it loads itself anew, or None.
    """

    title: str
    sections: Sequence[Section]
    command: str
    version: str
    refresh: int | None


def render(page: Page) -> str:
    """Write a page as HTML that needs no other file."""
    environment = Environment(
        loader=PackageLoader("timestepper.report.html"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template("page.html.j2")
    return template.render(page=page, mark=MARK, plotly=get_plotlyjs())


def is_report(path: Path) -> bool:
    """Tell whether a file is a report, which a newer one may replace."""
    with path.open(encoding="utf-8", errors="replace") as file:
        return MARK in file.read(MARK_WITHIN)
