"""The page in a browser: it opens, it works, it can be read."""

import json
from pathlib import Path

import numpy as np
import pytest
from browser import chromium, draw_all, opened, plot
from made_runs import make_run, steps

from timestepper.report.html import read_runs, write_report
from timestepper.robustness.corruptions import COMMON
from timestepper.training.step_history import write_step_history

SCORES = [(0.5, 1.5), (0.9, 0.3), (0.8, 0.4)]
LARGE = {"shape": [3, 32, 32]}
MAP = "Δt of every block and channel"


@pytest.fixture(scope="module")
def browser():
    with chromium() as started:
        yield started


def leave(run, threat, rows):
    """Write what was measured on runs under a threat into the folder of the first."""
    path = run.folder / "robustness" / f"{threat}.csv"
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(["# what was measured", "network,case,level,accuracy,loss", *rows]))


def disturb(runs):
    """Leave corruptions and two attacks of runs, and an experiment's noise and bound of each."""
    names = [run.folder.name for run in runs]
    leave(
        runs[0],
        "corruptions",
        [
            f"{name},{case},{severity},{0.9 - severity / 10 - number / 50},{severity / 3}"
            for number, name in enumerate(names)
            for case in COMMON
            for severity in (1, 2, 3, 4, 5)
        ],
    )
    for attack, levels in (("fgsm", (8,)), ("pgd", (1, 2, 4, 8))):
        rows = [
            f"{name},{attack},{level / 255},{0.8 - level / 10 + number / 50},{level / 2}"
            for number, name in enumerate(names)
            for level in levels
        ]
        leave(runs[0], attack, rows)
    for number, run in enumerate(runs):
        run.bound.write_text(json.dumps({"log10_bound": 14.2 + number}))
        measured = {"accuracy": [[0.9, 0.8 - number / 50, 0.3]], "loss": [[0.1, 0.5, 2.0]]}
        measured |= {"deviations": [0.0, 0.5, 1.0], "draws": 1}
        run.noise("0123abcd").write_text(json.dumps(measured))


@pytest.fixture(scope="module")
def pages(tmp_path_factory, trained):
    """Pages about a real run, about a deep made one, and about several with long names."""
    folder = tmp_path_factory.mktemp("pages")
    scores = [(0.5 + 0.001 * epoch, 2 / (1 + epoch)) for epoch in range(80)]
    deep = make_run(folder / "deep", scores, epochs=80)
    blocks = {f"layer{stage}.{block}": 8 * stage for stage in (1, 2, 3) for block in range(18)}
    write_step_history(steps(80, channels=blocks), deep.step_history)
    lines = [
        f"deep,draw {draw},{deviation},{0.9 - deviation / 2 - draw / 50},{deviation + draw / 9}"
        for draw in (0, 1)
        for deviation in (0, 0.5, 1)
    ]
    leave(deep, "noise", lines)
    disturb([deep])
    several = []
    for number, controller in enumerate(("lstm", "2fc", "none", "0.1")):
        for seed in (0, 1):
            name = f"a_run_whose_name_is_quite_long_{controller}-{seed}"
            scores = [(0.5 + 0.06 * number + 0.03 * seed, 1.5), (0.9, 0.3), (0.8, 0.4)]
            several.append(
                make_run(folder / name, scores, controller=controller, seed=seed, data=LARGE)
            )
    disturb(several[:-1])
    written = {"real": trained.report}
    for name, runs in {"deep": [deep], "several": several}.items():
        written[name] = folder / f"{name}.html"
        write_report(read_runs([run.folder for run in runs]), written[name])
    return written


@pytest.mark.parametrize("width", [400, 1600])
@pytest.mark.parametrize("name", ["real", "deep", "several"])
def test_can_be_read(browser, pages, name, width):
    with opened(browser, pages[name], width=width) as page:
        drawings = draw_all(page)
        assert len(drawings) > 4
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        for drawing in drawings:
            assert drawing.evaluate(CUT_OFF, LABELS) == []
            assert drawing.evaluate(OVERLAPPING) == []
        assert page.evaluate(CONTRAST) > READABLE
        page.emulate_media(color_scheme="dark")
        page.wait_for_function(f"({CONTRAST})() > {READABLE}")


READABLE = 7
"""Contrast of text to its background that WCAG asks for at its highest level."""
LABELS = ".xtick text, .ytick text, .legendtext, .xtitle, .gtitle, .annotation-text, .slider-label"
CUT_OFF = """(place, labels) => {
  const outer = place.getBoundingClientRect();
  return [...place.querySelectorAll(labels)].filter((text) => {
    const box = text.getBoundingClientRect();
    return box.left < outer.left - 1 || box.right > outer.right + 1
      || box.top < outer.top - 1 || box.bottom > outer.bottom + 1;
  }).map((text) => text.textContent);
}"""
OVERLAPPING = """(place) => {
  const boxes = (kind) => [...place.querySelectorAll(kind)].map((text) => (
    { text: text.textContent, box: text.getBoundingClientRect() }));
  const legend = boxes(".legendtext");
  const others = [...legend, ...boxes(".xtitle"), ...boxes(".xtick text")];
  return legend.flatMap((one) => others.filter((other) => other !== one
    && one.box.left < other.box.right - 1 && other.box.left < one.box.right - 1
    && one.box.top < other.box.bottom - 3 && other.box.top < one.box.bottom - 3
  ).map((other) => [one.text, other.text]));
}"""
CONTRAST = """() => {
  const light = (text) => {
    const parts = text.match(/[\\d.]+/g).slice(0, 3).map((part) => part / 255);
    const [r, g, b] = parts.map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const paper = light(getComputedStyle(document.body).backgroundColor);
  const inks = [...document.querySelectorAll("p, td, .xtick text, .ytick text, .legendtext")]
    .filter((one) => !one.closest(".kind, .missing"))
    .map((one) => getComputedStyle(one)[one instanceof SVGElement ? "fill" : "color"]).map(light);
  return Math.min(...inks.map((ink) =>
    (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05)));
}"""


def test_slider_shows_the_step_sizes_of_an_epoch(browser, pages, trained):
    (run,) = read_runs([trained.folder])
    rows = run.steps["layer1.0"]
    with opened(browser, pages["real"]) as page:
        drawing = plot(page, MAP)
        channels = [int(channel) for channel in drawing.evaluate("place => place.data[0].x")]

        def shown():
            return np.array(drawing.evaluate("place => place.data[0].z"))

        np.testing.assert_allclose(shown(), rows[-1:, channels], atol=5.1e-5)
        colours = drawing.locator(".heatmaplayer image").first.get_attribute("href")
        rail = drawing.locator(".slider-rail-touch-rect")
        rail.click(position={"x": 2, "y": 5})
        page.wait_for_function(
            "place => place.layout.sliders[0].active === 0", arg=drawing.element_handle()
        )
        assert "start" in drawing.locator(".slider-label").first.text_content()
        np.testing.assert_allclose(shown(), rows[:1, channels], atol=5.1e-5)
        assert drawing.locator(".heatmaplayer image").first.get_attribute("href") != colours


def test_no_button_sends_anything_anywhere(browser, pages):
    with opened(browser, pages["real"]) as page:
        drawing = plot(page, MAP)
        buttons = drawing.locator(".modebar-btn").evaluate_all(
            "buttons => buttons.map((button) => button.dataset.title)"
        )
        assert buttons == [
            *("Download plot as a PNG", "Zoom", "Pan", "Zoom in", "Zoom out", "Reset axes"),
        ]


def test_legend_switches_all_runs_of_a_method(browser, pages):
    with opened(browser, pages["several"]) as page:
        drawing = plot(page, "test accuracy (%)")

        def visible():
            return drawing.evaluate("place => place._fullData.map((trace) => trace.visible)")

        assert visible() == [True] * 8
        drawing.locator(".legendtoggle").first.click()
        page.wait_for_function(
            "place => place._fullData[0].visible !== true", arg=drawing.element_handle()
        )
        assert visible() == ["legendonly"] * 2 + [True] * 6


def test_hovering_says_which_run_it_is(browser, pages):
    with opened(browser, pages["several"]) as page:
        drawing = plot(page, "test accuracy (%)")
        drawing.locator(".scatterlayer .point").first.hover(force=True)
        text = drawing.locator(".hovertext").first
        text.wait_for()
        assert text.text_content().startswith("a_run_whose_name_is_quite_long_lstm-0: 50")


def test_names_that_look_like_templates_are_shown(browser):
    make_run("%{y}<b>", SCORES)
    make_run("other", [(0.7, 1.2)] * 3, controller="none")
    write_report(read_runs([Path("%{y}<b>"), Path("other")]), Path("page.html"))
    with opened(browser, Path("page.html")) as page:
        drawing = plot(page, "test accuracy (%)")
        drawing.locator(".scatterlayer .point").first.hover(force=True)
        text = drawing.locator(".hovertext").first
        text.wait_for()
        assert text.text_content().startswith("%{y}<b>: 50")


def test_plots_have_names_for_those_who_listen(browser, pages):
    with opened(browser, pages["real"]) as page:
        for drawing in page.locator("figure.plot").all():
            title = drawing.locator("h3").text_content()
            assert drawing.get_by_role("group", name=title, exact=True).count() == 1
        assert page.get_by_role("rowheader").count() > 4


def test_plots_follow_light_and_dark_and_the_width(browser, pages):
    with opened(browser, pages["real"]) as page:
        drawing = plot(page, "accuracy (%)")
        ink = "place => getComputedStyle(place.querySelector('.xtick text')).fill"
        light = drawing.evaluate(ink)
        page.emulate_media(color_scheme="dark")
        page.wait_for_function(
            f"([place, light]) => ({ink})(place) !== light", arg=[drawing.element_handle(), light]
        )
        page.set_viewport_size({"width": 400, "height": 900})
        page.wait_for_function(
            "place => place.querySelector('.main-svg').clientWidth < 400",
            arg=drawing.element_handle(),
        )
        assert page.evaluate("document.documentElement.scrollWidth") <= 400


def test_all_is_drawn_before_printing(browser, pages):
    with opened(browser, pages["deep"]) as page:
        drawn = page.locator(".drawing[data-drawn]")
        drawn.first.wait_for()
        assert drawn.count() < page.locator(".drawing").count()
        page.pdf()
        assert drawn.count() == page.locator(".drawing .svg-container").count()
        assert drawn.count() == page.locator(".drawing").count()


def test_print_fits_on_paper(browser, pages):
    with opened(browser, pages["several"], scheme="dark") as page:
        drawing = draw_all(page)[0]
        width = "place => place.querySelector('.main-svg').clientWidth"
        ink = "place => getComputedStyle(place.querySelector('.xtick text')).fill"
        before = drawing.evaluate(width), drawing.evaluate(ink)
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        page.emulate_media(media="print")
        for section in page.locator("section").all():
            assert section.evaluate("one => one.scrollWidth <= one.clientWidth")
        assert page.evaluate("document.querySelector('main').clientWidth") < 700  # A4's, or less
        assert drawing.evaluate(ink) != before[1]
        page.emulate_media(media="screen")
        page.evaluate("dispatchEvent(new Event('afterprint'))")
        assert (drawing.evaluate(width), drawing.evaluate(ink)) == before


def test_page_of_a_running_training_refreshes_itself(browser):
    make_run("run", SCORES[:2])
    path = Path("page.html")
    write_report(read_runs([Path("run")]), path, refresh=1)
    with opened(browser, path) as page:
        assert "90.00 %" in page.locator("#summary").text_content()
        make_run("later", SCORES)
        write_report(read_runs([Path("later")]), path)
        for _ in range(5):  # Somebody is reading.
            page.mouse.move(0, 0)
            page.mouse.move(100, 100)
            page.wait_for_timeout(500)
        assert page.get_by_role("heading", name="later").count() == 0
        page.get_by_role("heading", name="later").wait_for(timeout=10_000)
        assert page.locator(".live").count() == 0
