"""The documentation's pages, and what is in them."""

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = [
    path
    for pattern in ("*.md", "docs/**/*.md", "recipes/*.md", "results/*.md")
    for path in sorted(ROOT.glob(pattern))
]
NOT_RUN = re.compile(r"<!-- not run: (.+?) -->\n")


class Block(NamedTuple):
    """A block of code; ``not_run`` is the reason that the page gives, if it is not to run."""

    language: str
    code: str
    not_run: str | None


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def fenced_blocks(text: str) -> list[Block]:
    found = re.findall(
        rf"^(?:{NOT_RUN.pattern})?```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL
    )
    return [Block(language, code, reason or None) for reason, language, code in found]


def python_blocks(text: str) -> list[Block]:
    return [block for block in fenced_blocks(text) if block.language == "python"]


def without_fenced_blocks(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
