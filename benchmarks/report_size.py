"""Size and opening time of a report of 20 runs.

It makes folders of 20 runs that nobody has trained, as long and as deep as a ResNet-56's on
CIFAR-10 (300 epochs, 27 blocks), with random step sizes and curves, writes one report of all and
opens it in headless Chromium. It prints the ratios to what is promised: 15 MB, and 3 seconds until
the page is loaded, scrolled to its first plot, and that is drawn; ``--output`` writes them as CSV
with what made them. It takes Chromium (``make browser``) and playwright (the extra ``dev``).

    python benchmarks/report_size.py --output results/report_size.csv
"""

from __future__ import annotations

import argparse
import csv
import shutil
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from playwright.sync_api import sync_playwright

from timestepper.data import load
from timestepper.provenance import provenance
from timestepper.report.html import read_runs, write_report
from timestepper.training.configuration import (
    Configuration,
    NetworkConfiguration,
    SteppingConfiguration,
)
from timestepper.training.run import Run
from timestepper.training.step_history import write_step_history

MEGABYTES, SECONDS = 15, 3
CONTROLLERS = ("lstm", "2fc", "indp", "lstm+")
STAGES = {"layer1": 16, "layer2": 32, "layer3": 64}
BLOCKS = 9


def make_run(folder: Path, controller: str, seed: int, epochs: int) -> Path:
    """Write what a report reads of a run."""
    configuration = Configuration(
        network=NetworkConfiguration("cifar_resnet56"),
        stepping=SteppingConfiguration(controller),
        epochs=epochs,
        seed=seed,
    )
    run = Run(folder / f"{controller}-{seed}")
    run.create(replace(configuration, accelerator="cpu"), load("digits"), torch.device("cpu"))
    generator = torch.Generator().manual_seed(10 * CONTROLLERS.index(controller) + seed)
    curves = torch.rand(epochs, 4, generator=generator).tolist()
    names = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")
    times = {f"evolution_time/{stage}": BLOCKS / 2 for stage in STAGES}
    run.write_metrics(
        [
            {"epoch": number, "lr": 0.1, **dict(zip(names, row, strict=True))}
            | {"images_per_second": 1000.0, **times}
            for number, row in enumerate(curves, start=1)
        ]
    )
    steps = {
        f"{stage}.{block}": torch.rand(1 + epochs, channels, generator=generator)
        for stage, channels in STAGES.items()
        for block in range(BLOCKS)
    }
    write_step_history(steps, run.step_history)
    return run.folder


def seconds_to_open(path: Path, times: int) -> tuple[float, str]:
    """Measure the median time until the page is loaded and its first plot drawn.

    Returns:
        Seconds, and the browser's version.
    """
    program = shutil.which("chromium") or shutil.which("google-chrome")
    taken = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        version = browser.version
        for _ in range(times):
            page = browser.new_page(viewport={"width": 1600, "height": 900})
            start = time.perf_counter()
            page.goto(path.as_uri())
            # Plots are drawn when they come near the window.
            page.locator(".drawing").first.scroll_into_view_if_needed()
            page.locator("[data-drawn]").first.wait_for(state="attached")
            taken.append(time.perf_counter() - start)
            page.close()
    return statistics.median(taken), version


def main() -> None:
    """Make the runs, write the report, open it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--times", type=int, default=5, help="how often the page is opened")
    parser.add_argument("--output", type=Path, help="CSV file to write")
    parser.add_argument("--keep", type=Path, help="copy the report to this file")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folders = [
            make_run(
                Path(folder), CONTROLLERS[n % len(CONTROLLERS)], n // len(CONTROLLERS), given.epochs
            )
            for n in range(given.runs)
        ]
        path = Path(folder) / "report.html"
        start = time.perf_counter()
        write_report(read_runs(folders), path)
        wrote = time.perf_counter() - start
        size = path.stat().st_size / 1e6
        opened, browser = seconds_to_open(path, given.times)
        if given.keep:
            shutil.copyfile(path, given.keep)
    print(f"written in {wrote:.1f} s")
    print(f"size {size:.1f} MB: {size / MEGABYTES:.2f} of {MEGABYTES} MB")
    print(f"open in {opened:.2f} s: {opened / SECONDS:.2f} of {SECONDS} s")
    if given.output:
        made_by = [*provenance(), f"browser: Chromium {browser}, headless"]
        figures = {
            "runs": given.runs,
            "epochs": given.epochs,
            "written_s": f"{wrote:.1f}",
            "size_mb": f"{size:.1f}",
            "opened_s": f"{opened:.2f}",
        }
        with given.output.open("w", newline="") as file:
            file.writelines(f"# {line}\n" for line in made_by)
            writer = csv.DictWriter(file, list(figures))
            writer.writeheader()
            writer.writerow(figures)


if __name__ == "__main__":
    main()
