from __future__ import annotations

import gc
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, settings
from PIL import Image

# `make test` runs as many tests at once as there are cores.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"

# The suite tries the same few cases each time; `make fuzz` a thousand new ones of each kind.
CASES = {
    "phases": [Phase.explicit, Phase.generate],  # to shrink a case takes minutes
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large],
}
settings.register_profile("suite", max_examples=15, deadline=30_000, derandomize=True, **CASES)
settings.register_profile("fuzz", max_examples=1000, deadline=60_000, print_blob=True, **CASES)
settings.load_profile("suite")

MakeFolder = Callable[..., Path]


def pytest_configure() -> None:
    """Let the garbage collector look at new objects by the ten thousands: it took half a minute."""
    gc.set_threshold(50_000)


def pytest_collection_finish() -> None:
    """Keep it from going through all imported modules again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _no_data_of_this_machine(tmp_path, monkeypatch):
    """Keep the tests away from data, caches and settings that happen to be here."""
    monkeypatch.delenv("TIMESTEPPER_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("timestepper.data.locate.SYSTEM_FOLDER", tmp_path / "system")
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def _one_core_for_each_training(monkeypatch):
    """Threads that wait for each other take many times as long where another test runs, too."""
    monkeypatch.setattr("timestepper.experiments.runner.cores", lambda: 1)


@pytest.fixture
def make_folder(tmp_path) -> MakeFolder:
    """Make an image folder of random PNGs; ``sizes`` are (width, height), used in turn."""

    def make(name="folder", *, sizes=((8, 8),), train=6, test=3, test_name="test") -> Path:
        random = np.random.default_rng(0)
        for split, count in (("train", train), (test_name, test)):
            for label in ("cat", "dog"):
                folder = tmp_path / name / split / label
                folder.mkdir(parents=True)
                for number in range(count):
                    width, height = sizes[number % len(sizes)]
                    pixels = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
                    Image.fromarray(pixels).save(folder / f"{number}.png")
        return tmp_path / name

    return make
