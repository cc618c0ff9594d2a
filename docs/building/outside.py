"""Pages and files of the repository that lie outside of docs/, and the links between both.

Links are written as a code host follows them, from file to file. In the site what lies in docs/
is at the top, beside the other folders.
"""

import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

OUTSIDE = (
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "benchmarks/*.py",
    "examples/*.py",
    "notebooks/*.ipynb",
    "recipes/README.md",
    "recipes/**/*.yaml",
    "results/*",
)
LINK = re.compile(r"(\]\()([^)\s#:]+)")


def on_files(files: Files, *, config: MkDocsConfig) -> None:
    """Add what lies outside of docs/."""
    root = Path(config.config_file_path).parent
    for pattern in OUTSIDE:
        for path in sorted(root.glob(pattern)):
            name = path.relative_to(root).as_posix()
            files.append(File.generated(config, name, abs_src_path=str(path)))


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, **_: Any) -> str:
    """Write a page's links as the site has them."""
    root = Path(config.config_file_path).parent
    folder = Path(page.file.abs_src_path or "").parent.relative_to(root)

    def relink(found: re.Match[str]) -> str:
        target = PurePosixPath(os.path.normpath(folder / found[2]))
        if target.is_relative_to("docs"):
            target = target.relative_to("docs")
        return found[1] + os.path.relpath(target, PurePosixPath(page.file.src_uri).parent)

    return LINK.sub(relink, markdown)
