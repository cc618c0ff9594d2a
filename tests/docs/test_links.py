"""Every link between pages and files of the repository leads somewhere."""

import re

import pytest
from markdown.extensions.toc import slugify
from pages import PAGES, ROOT, name, read, without_fenced_blocks


def anchors(page):
    headings = re.findall(r"^#+ (.+)$", without_fenced_blocks(read(page)), re.MULTILINE)
    return {slugify(heading, "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", without_fenced_blocks(read(page))):
        if re.match(r"https?:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        assert linked.is_relative_to(ROOT), target
        if anchor:
            assert anchor in anchors(linked), target
