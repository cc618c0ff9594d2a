"""A browser without a window, and what a person does with a page in it."""

import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest

HOW = (
    "needs Chromium and the Python package playwright: `make browser` installs the first (on "
    "Debian as root), the extra `dev` the second"
)
NAMES = ("chromium", "chromium-browser", "google-chrome")


@contextmanager
def chromium():
    """Start the browser; without one the tests that need it are skipped."""
    playwright = pytest.importorskip("playwright.sync_api", reason=HOW)
    with playwright.sync_playwright() as driver:
        programs = [*map(shutil.which, NAMES), driver.chromium.executable_path]
        program = next((one for one in programs if one and Path(one).exists()), None)
        if program is None:
            pytest.skip(HOW)
        # Chromium's own sandbox refuses to work for root, who CI often is.
        yield driver.chromium.launch(executable_path=program, args=["--no-sandbox"])


@contextmanager
def opened(browser, path, *, width=1600, scheme="light"):
    """Open a page; in the end nothing may have gone wrong in it."""
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True
    )
    page = context.new_page()
    wrong = []
    page.on("console", lambda said: wrong.append(said.text) if said.type != "log" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on(
        "request", lambda request: wrong.append(request.url) if _is_remote(request.url) else None
    )
    page.goto(path.absolute().as_uri())
    yield page
    assert wrong == []
    context.close()


def _is_remote(url):
    return not url.startswith(("file:", "data:", "blob:"))


def draw_all(page):
    """Scroll through the page until every plot is drawn; return them."""
    drawings = page.locator(".drawing")
    for number in range(drawings.count()):
        drawings.nth(number).scroll_into_view_if_needed()
        page.wait_for_function(
            "number => 'drawn' in document.querySelectorAll('.drawing')[number].dataset",
            arg=number,
        )
    return drawings.all()


def plot(page, title):
    """Return the plot below a title, drawn."""
    drawing = page.locator("figure", has=page.get_by_role("heading", name=title, exact=True))
    drawing = drawing.locator(".drawing")
    drawing.scroll_into_view_if_needed()
    page.wait_for_function("place => 'drawn' in place.dataset", arg=drawing.element_handle())
    return drawing
