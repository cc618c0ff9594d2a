"""The site builds without a warning, and fetches nothing from elsewhere."""

import os
import re
import subprocess
import sys

import pytest
from pages import ROOT

LOADED = re.compile(
    r"<(?:script|img|iframe|link|source)\b[^>]*\b(?:src|href)=\"?(https?://[^\"\s>]+)"
)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("mkdocs")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder]
    built = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    return folder


def test_nothing_is_fetched_from_elsewhere(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 50
    for page in pages:
        assert LOADED.findall(page.read_text(encoding="utf-8")) == [], page.name
    for style in site.rglob("*.css"):
        assert re.findall(r"(?:url\(|@import)\s*[\"']?https?:", style.read_text()) == []


def test_roles_of_docstrings_are_not_shown(site):
    for page in (site / "api").glob("*.html"):
        assert not re.search(r":(?:class|func|meth|data|mod|attr):", page.read_text("utf-8"))
