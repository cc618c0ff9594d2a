from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from timestepper.training.configuration import (
    Configuration,
    DataConfiguration,
    NetworkConfiguration,
)
from timestepper.training.loop import train
from timestepper.training.run import Run


@pytest.fixture(scope="module", autouse=True)
def _no_reports_of_trainings():
    """They take longer than the trainings; reports of damaged runs are a test of their own.

    Undone after each file: the same process goes on with tests of reports.
    """
    with pytest.MonkeyPatch.context() as patches:
        patches.setattr("timestepper.training.loop.write_report", lambda *_: "no report")
        yield


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """A folder of 12 training and 6 test images of 8x8 pixels in two classes."""
    folder = tmp_path_factory.mktemp("data") / "images"
    random = np.random.default_rng(0)
    for split, count in (("train", 6), ("test", 3)):
        for label in ("cat", "dog"):
            (folder / split / label).mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / label / f"{number}.png")
    return folder


@pytest.fixture(scope="session")
def trained(images, tmp_path_factory):
    """The folder of a run of two epochs, which nobody changes."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    configuration = Configuration(
        network=NetworkConfiguration("cifar_resnet14"),
        data=DataConfiguration("imagefolder", data_dir=str(images), cache_dir=str(folder.parent)),
        epochs=2,
        batch_size=8,
        accelerator="cpu",
    )
    train(Run(folder), configuration, resume=False, console=Console(quiet=True))
    return folder


@pytest.fixture(scope="session")
def fresh(trained):
    """Make the run anew in ./run, as it was; each case does so itself."""

    def make():
        shutil.rmtree("run", ignore_errors=True)
        return Path(shutil.copytree(trained, "run"))

    return make
