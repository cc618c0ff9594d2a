"""What the page says of a network itself: on single images, and what it costs."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import torch
from lightning_fabric.accelerators import CUDAAccelerator
from reading import Page
from torch import nn

from timestepper.report.html import read_runs, write_report
from timestepper.report.html.samples import classify
from timestepper.training.recipes import write_configuration
from timestepper.training.run import Run
from timestepper.training.trained import load_trained


def test_network_for_a_device_that_is_not_there(trained, monkeypatch):
    monkeypatch.setattr(CUDAAccelerator, "is_available", lambda: False)
    shutil.copytree(trained.folder, "run")
    configuration = Run(Path("run")).read_configuration()
    write_configuration(replace(configuration, accelerator="cuda"), Path("run/configuration.yaml"))
    write_report(read_runs([Path("run")]), Path("page.html"))
    page = Page(Path("page.html"))
    assert "accelerator" in page.text["predictions"]
    assert page.tables["cost"] == Page(trained.report).tables["cost"]
    assert page.tables["cost"][0][0] == ["form", "parameters", "operations"]


def test_tables_that_scroll_have_names(trained):
    text = trained.report.read_text()
    named = re.findall('<div class="scroll" tabindex="0" role="region" aria-label="([^"]+)">', text)
    assert len(named) == text.count('class="scroll"') > 1


class Nothing(nn.Module):
    """Gives no scores."""

    def forward(self, images):
        return torch.full((len(images), 10), torch.nan)


def test_outputs_that_hold_nan_are_wrong(trained):
    samples = classify(replace(load_trained(trained), network=Nothing()))
    assert samples.seen == 355
    assert samples.right == 0
    assert len(samples.shown_wrong) == 12
    assert samples.shown_right == ()
