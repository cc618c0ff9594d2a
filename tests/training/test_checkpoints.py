"""Whatever happens while a checkpoint is written, a whole one is left."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from timestepper.errors import RunError
from timestepper.training.checkpoints import Checkpoints


def state(number):
    weights = {"weight": torch.full((1000,), float(number))}
    return {"network": weights, "ema": None, "history": [], "epoch": number}


def number(loaded):
    assert torch.equal(loaded["network"]["weight"], torch.full((1000,), float(loaded["epoch"])))
    return loaded["epoch"]


@pytest.fixture
def checkpoints(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    for epoch in (1, 2):
        checkpoints.save(state(epoch), best=epoch == 1)
    return checkpoints


def test_last_previous_and_best(checkpoints):
    assert number(checkpoints.load()[0]) == 2
    assert number(checkpoints.load("best")[0]) == 1
    assert number(torch.load(checkpoints.previous, weights_only=True)) == 1
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == [
        "best.pt",
        "last.pt",
        "previous.pt",
    ]


class PowerCut(BaseException):
    pass


def cut_file(original):
    """Write a half of the file before the power goes."""

    def fsync(file):
        os.truncate(file, os.fstat(file).st_size // 2)
        raise PowerCut

    return fsync


def cut_at(call):
    """Let the power go at the n-th call."""

    def wrap(original):
        made = []

        def function(*arguments):
            made.append(1)
            if len(made) == call:
                raise PowerCut
            return original(*arguments)

        return function

    return wrap


CUTS = {
    "half a file": (os, "fsync", cut_file),
    "before it is flushed": (os, "fsync", cut_at(1)),
    "before the best is flushed": (os, "fsync", cut_at(2)),
    "before the best is renamed": (Path, "replace", cut_at(1)),
    "before the last is moved away": (Path, "replace", cut_at(2)),
    "before the new one is the last": (Path, "replace", cut_at(3)),
}


@pytest.mark.parametrize("where", CUTS)
def test_power_goes_while_writing(where, checkpoints, monkeypatch):
    owner, name, cut = CUTS[where]
    with monkeypatch.context() as patches:
        patches.setattr(owner, name, cut(getattr(owner, name)))
        with pytest.raises(PowerCut):
            checkpoints.save(state(3), best=True)
    assert checkpoints.exist()
    assert number(checkpoints.load()[0]) == 2
    assert number(checkpoints.load("best")[0]) in (1, 3)
    checkpoints.save(state(4), best=False)
    assert number(checkpoints.load()[0]) == 4


@pytest.mark.parametrize("size", [0, 10, 1000])
def test_truncated_last_falls_back_to_the_one_before_and_says_so(size, checkpoints):
    with checkpoints.last.open("r+b") as file:
        file.truncate(size)
    loaded, warning = checkpoints.load()
    assert number(loaded) == 1
    assert str(checkpoints.last) in warning
    assert "going back to the one before" in warning
    assert "\n" not in warning


def test_a_flipped_bit_anywhere_is_noticed_or_harmless(checkpoints):
    """torch itself reads damaged tensors without a word."""
    whole = checkpoints.last.read_bytes()
    generator = np.random.default_rng(0)
    seen = set()
    for place in generator.choice(len(whole), 300, replace=False):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << generator.integers(8)
        checkpoints.last.write_bytes(damaged)
        loaded, warning = checkpoints.load()
        assert number(loaded) == (1 if warning else 2)  # which compares every value
        seen.add(warning is None)
    assert seen == {True, False}


def test_nothing_is_left_to_read(checkpoints):
    for path in checkpoints.folder.iterdir():
        path.write_bytes(b"nothing of the kind")
    with pytest.raises(RunError, match=r"previous\.pt can't be read .* start the training anew"):
        checkpoints.load()
    with pytest.raises(RunError, match=r"best\.pt can't be read"):
        checkpoints.load("best")


def test_a_text_file_is_no_checkpoint(checkpoints):
    checkpoints.last.write_text("root:x:0:0:root:/:/bin/sh\n" * 20)
    _, warning = checkpoints.load("last")
    assert "can't be read" in warning


def test_code_in_a_checkpoint_is_not_run(checkpoints, tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "was here",))

    torch.save({"network": Evil()}, checkpoints.last)
    assert number(checkpoints.load()[0]) == 1
    assert not (tmp_path / "was here").exists()


def test_no_checkpoint_yet(tmp_path):
    with pytest.raises(RunError, match="no last checkpoint yet; continue the training with"):
        Checkpoints(tmp_path / "run" / "checkpoints").load()
